// Executes matrix operations for the software GPU on its device memory, which is memory of this process. The
// arithmetic is OpenBLAS's (libopenblas.so.0, loaded at the first use); half-precision operands are widened
// to f32 and rounded once at the end, so results are at least as exact as a GPU's. Never: knows streams or
// contexts.
#pragma once

#include <cstdint>
#include <functional>

#include "cudaabi/blas_extension.hpp"

namespace softgpu::blas {

enum class Status : std::uint8_t {
  ok,
  invalid,          ///< the descriptor makes no sense; nothing was touched
  unsupported,      ///< sensible, but not carried out here (types, sizes beyond 2^31-1)
  illegal_address,  ///< an operand is not all in accessible memory
  out_of_memory,    ///< no room for widened operands
};

/// True when OpenBLAS is there. Loads it at the first call; thread-safe.
bool available();

/// Tells whether [address, address + bytes) may be read and written.
using Accessible = std::function<bool(std::uint64_t address, std::uint64_t bytes)>;

/// Carries it out on the calling thread (and OpenBLAS's own). Every address is asked for through `accessible`
/// first.
Status execute(const cudaabi::BlasDescriptor& descriptor, const Accessible& accessible);

}  // namespace softgpu::blas
