// CUDA 13's wider forms of memory calls, brought back to the narrower ones: pools by location, and prefetches
// in batches.
#pragma once

#include <cuda.h>

#include <cstddef>

#include "cudaabi/attribute_runs.hpp"

namespace cudaabi {

/// The device whose pools cuMemGetMemPool and its kin mean. Only devices have pools here, of pinned memory.
CUresult device_of_pools(const CUmemLocation* location, CUmemAllocationType type, CUdevice& device);

/// The arguments of cuMemPrefetchBatchAsync that say what goes where.
struct PrefetchList {
  const CUdeviceptr* pointers;
  const std::size_t* sizes;
  std::size_t count;
  AttributeRuns<CUmemLocation> locations;
};

/// The ranges one after the other, by the library's own cuMemPrefetchAsync_v2.
CUresult prefetch_batch(const PrefetchList& list, unsigned long long flags,
                        CUresult (*prefetch)(CUdeviceptr, std::size_t, CUmemLocation, unsigned, CUstream),
                        CUstream stream);

}  // namespace cudaabi
