// The JIT options of one load or linker in the form in which the driver wants them, with log buffers of the
// worker's own. Never: follows an address of the client's.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <span>
#include <vector>

#include "protocol/jit_options.hpp"

namespace vgpu::worker {

/// Options and buffers; the driver keeps pointers into it while it works (a linker: until it is destroyed),
/// so it does not move.
class JitState {
 public:
  JitState() = default;
  JitState(const JitState&) = delete;
  JitState& operator=(const JitState&) = delete;

  /// Takes `count` options from the front of `tail`; an error for unknown or too many ones.
  CUresult read(std::uint32_t count, std::span<const std::byte>& tail);

  unsigned count() const { return static_cast<unsigned>(options_.size()); }
  CUjit_option* options() { return options_.data(); }
  void** values() { return values_.data(); }
  /// Writes JitOutputs and the logs, as far as there is room.
  void write_outputs(std::span<std::byte> out) const;

 private:
  void add(CUjit_option option, std::uint64_t value);
  void add_log(CUjit_option buffer, CUjit_option size, std::vector<char>& log, std::uint64_t bytes);

  std::vector<CUjit_option> options_;
  std::vector<void*> values_;
  std::vector<char> info_, error_;
};

/// A linker (cuLinkCreate) with the options that the driver points into.
struct Linker {
  JitState jit;
  CUlinkState state = nullptr;
  std::span<const std::byte> image;  ///< of the last cuLinkComplete; the driver owns it
};

}  // namespace vgpu::worker
