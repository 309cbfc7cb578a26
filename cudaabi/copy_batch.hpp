// Batches of copies, made one after the other by a library's single copies: more order than a batch promises.
#pragma once

#include <cuda.h>

#include <cstddef>

#include "cudaabi/attribute_runs.hpp"

namespace cudaabi {

/// The library's own calls, for its default streams of either kind.
struct CopyCalls {
  CUresult (*copy)(CUdeviceptr, CUdeviceptr, std::size_t, CUstream);
  CUresult (*copy_box)(const CUDA_MEMCPY3D*, CUstream);
  CUresult (*describe)(CUDA_ARRAY3D_DESCRIPTOR*, CUarray);
  CUresult (*synchronize)(CUstream);
};

/// The arguments of cuMemcpyBatchAsync that say what to copy.
struct CopyList {
  const CUdeviceptr* targets;
  const CUdeviceptr* sources;
  const std::size_t* sizes;
  std::size_t count;
  AttributeRuns<CUmemcpyAttributes> attributes;
};

/// cuMemcpyBatchAsync. `failed`, if not null: the index of the copy that failed, or SIZE_MAX.
CUresult copy_batch(const CopyCalls& calls, const CopyList& list, std::size_t* failed, CUstream stream);

/// cuMemcpy3DBatchAsync.
CUresult copy_box_batch(const CopyCalls& calls, std::size_t count, const CUDA_MEMCPY3D_BATCH_OP* boxes,
                        std::size_t* failed, unsigned long long flags, CUstream stream);

}  // namespace cudaabi
