// From the many copy calls to one description: where from, where to, and how the call must behave.
#pragma once

#include <cuda.h>

#include "softgpu/driver/context.hpp"
#include "softgpu/driver/work.hpp"

namespace softgpu {

/// What an address is to a copy.
enum class Place : std::uint8_t {
  device,    ///< device or managed memory
  pinned,    ///< host memory that the device knows
  pageable,  ///< any other host memory
};

/// What a call says about a pointer.
enum class Claim : std::uint8_t { device, host, any };

/// Finds out what [address, address+bytes) is. `claim` device requires memory that the device knows; an error
/// otherwise. A range that leaves its allocation is an error.
CUresult classify(std::uint64_t address, std::size_t bytes, Claim claim, Place& place);

/// A box copy with what the call said about each end.
struct CopyPlan {
  CopyWork box;
  Claim destination = Claim::any, source = Claim::any;
};

/// 3D parameters as a plan. Work that copies an array must end before the array does.
CUresult plan_of(const CUDA_MEMCPY3D& params, CopyPlan& plan);
CUDA_MEMCPY3D widened(const CUDA_MEMCPY2D& params);
/// A copy of one run of bytes.
CopyPlan flat_plan(std::uint64_t destination, Claim destination_claim, std::uint64_t source,
                   Claim source_claim, std::size_t bytes);

/// Checks both ends; used for graph nodes as it is.
CUresult check(const CopyPlan& plan, Place& destination, Place& source);

/// Does the copy in stream order. `blocking`: cuMemcpy and its kin return when host memory on either side is
/// done with. Asynchronous calls take pageable sources along (or wait, where that costs nothing) and wait for
/// pageable destinations.
CUresult copy(Stream& stream, CopyPlan plan, bool blocking);

}  // namespace softgpu
