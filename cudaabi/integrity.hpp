// The integrity handshake: NVIDIA's runtime asks libcuda a question that binds driver, process, thread and
// devices, and refuses to run (error 103) without the expected answer. We answer it so that unmodified
// programs run on a broker; docs/compatibility.md says so openly. Built only with
// VGPU_INTEGRITY_HANDSHAKE=ON. Source: the public record of the ZLUDA project; tried with libcudart 13.0,
// static and shared.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "cudaabi/runtime_hooks.hpp"

namespace cudaabi {

/// What the answer is computed over besides the devices.
struct IntegrityQuestion {
  std::uint32_t driver_version = 0;  ///< CUDA_VERSION form
  std::uint32_t version = 0;         ///< asked by the runtime: 13000, 13001, ...
  std::uint32_t pid = 0;
  std::uint32_t thread = 0;           ///< low half of pthread_self()
  std::uint64_t runtime_table = 0;    ///< address of export table 6bd5fb6c
  std::uint64_t integrity_table = 0;  ///< address of export table d4082055
  std::uint64_t function = 0;         ///< address of its slot 1
  std::uint64_t unix_seconds = 0;
};

/// The two words that the runtime expects.
std::array<std::uint64_t, 2> answer_integrity(const IntegrityQuestion& question,
                                              std::span<const DeviceIdentity> devices);

}  // namespace cudaabi
