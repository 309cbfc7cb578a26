// A stand-in for the engine in the driver's tests: kernels written in C++, chosen by name, run on the calling
// thread.
#pragma once

#include <cstdint>

namespace softgpu {

/// What its executor counts for each thread of a launch.
inline constexpr std::uint64_t double_instructions = 10;

/// What modules look like to the stand-in: it finds every kernel below in any text that starts with
/// ".version".
///   add(u64 pointer, u32 count, u32 value)    adds to each word
///   append(u64 pointer, u32 value)            words[words[0]++ + 1] = value, not atomically
///   spin(u64 pointer)                         waits until the word is not 0, or for cancellation
///   fault()                                   Fault::illegal_address
///   shared(u64 pointer)                       writes the launch's dynamic shared bytes
///   print()                                   prints "hello\n"
///   unsupported()                             cannot be prepared
/// and the variables `counter` and `managed`.
inline constexpr char double_image[] = ".version 8.0\n.target sm_75\n";

}  // namespace softgpu
