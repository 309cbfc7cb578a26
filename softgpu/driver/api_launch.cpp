// cuLaunch*: kernels and host functions into streams; occupancy.
#include <algorithm>

#include "cudaabi/unsupported.hpp"
#include "softgpu/driver/api.hpp"
#include "softgpu/driver/device.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/library.hpp"

using namespace softgpu;

namespace {

CUresult launch_kernel(LaunchRequest request, CUfunction handle, CUstream stream_handle) {
  return on_stream(stream_handle, [&](Driver& driver, Context& context, Stream& stream) -> CUresult {
    request.function = driver.functions.find(handle);
    if (request.function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (const CUresult error = bind_to(request.function, context.device); error != CUDA_SUCCESS) return error;
    KernelWork work;
    if (const CUresult error = make_kernel_work(request, work); error != CUDA_SUCCESS) return error;
    return enqueue(stream, std::move(work));
  });
}

// Attributes of cuLaunchKernelEx: hints are taken as such, what would change the result is obeyed or refused.
CUresult apply_attribute(const CUlaunchAttribute& attribute, LaunchRequest& request) {
  const CUlaunchAttributeValue& value = attribute.value;
  switch (attribute.id) {
    case CU_LAUNCH_ATTRIBUTE_IGNORE:
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
    case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
    case CU_LAUNCH_ATTRIBUTE_NVLINK_UTIL_CENTRIC_SCHEDULING:
      return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
      request.cooperative = value.cooperative != 0;
      return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
      // Clusters begin with compute capability 9.0.
      return value.clusterDim.x <= 1 && value.clusterDim.y <= 1 && value.clusterDim.z <= 1
                 ? CUDA_SUCCESS
                 : CUDA_ERROR_INVALID_CLUSTER_SIZE;
    default:
      return static_cast<CUresult>(cudaabi::note_unsupported("cuLaunchKernelEx: attribute"));
  }
}

CUresult max_blocks(int* blocks, CUfunction handle, int block_size, std::size_t dynamic_shared) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto function = driver.functions.find(handle);
    if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (blocks == nullptr || block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
    *blocks = resident_blocks(*function, block_size, dynamic_shared);
    return CUDA_SUCCESS;
  });
}

}  // namespace

SOFTGPU_API cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                           unsigned bz, unsigned shared, CUstream stream, void** params, void** extra) {
  return launch_kernel({nullptr, {gx, gy, gz}, {bx, by, bz}, shared, false, params, extra}, f, stream);
}

SOFTGPU_API cuLaunchKernel_ptsz(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                unsigned bz, unsigned shared, CUstream stream, void** params, void** extra) {
  return cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, per_thread(stream), params, extra);
}

SOFTGPU_API cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                      unsigned by, unsigned bz, unsigned shared, CUstream stream,
                                      void** params) {
  return launch_kernel({nullptr, {gx, gy, gz}, {bx, by, bz}, shared, true, params, nullptr}, f, stream);
}

SOFTGPU_API cuLaunchCooperativeKernel_ptsz(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                           unsigned by, unsigned bz, unsigned shared, CUstream stream,
                                           void** params) {
  return cuLaunchCooperativeKernel(f, gx, gy, gz, bx, by, bz, shared, per_thread(stream), params);
}

SOFTGPU_API cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction f, void** params, void** extra) {
  if (config == nullptr || (config->numAttrs != 0 && config->attrs == nullptr))
    return CUDA_ERROR_INVALID_VALUE;
  LaunchRequest request{nullptr,
                        {config->gridDimX, config->gridDimY, config->gridDimZ},
                        {config->blockDimX, config->blockDimY, config->blockDimZ},
                        config->sharedMemBytes,
                        false,
                        params,
                        extra};
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    if (const CUresult error = apply_attribute(config->attrs[i], request); error != CUDA_SUCCESS)
      return error;
  }
  return launch_kernel(std::move(request), f, config->hStream);
}

SOFTGPU_API cuLaunchKernelEx_ptsz(const CUlaunchConfig* config, CUfunction f, void** params, void** extra) {
  if (config == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUlaunchConfig own = *config;
  own.hStream = per_thread(own.hStream);
  return cuLaunchKernelEx(&own, f, params, extra);
}

SOFTGPU_API cuLaunchHostFunc(CUstream handle, CUhostFn function, void* data) {
  return on_stream(handle, [&](Driver&, Context&, Stream& stream) -> CUresult {
    if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, HostWork{function, data});
  });
}

SOFTGPU_API cuLaunchHostFunc_ptsz(CUstream stream, CUhostFn function, void* data) {
  return cuLaunchHostFunc(per_thread(stream), function, data);
}

SOFTGPU_API cuStreamAddCallback(CUstream handle, CUstreamCallback callback, void* data, unsigned flags) {
  return on_stream(handle, [&](Driver&, Context&, Stream& stream) -> CUresult {
    if (callback == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (stream.capturing.load()) return refuse_capturing(stream);
    return enqueue(stream, CallbackWork{callback, handle, data});
  });
}

SOFTGPU_API cuStreamAddCallback_ptsz(CUstream stream, CUstreamCallback callback, void* data, unsigned flags) {
  return cuStreamAddCallback(per_thread(stream), callback, data, flags);
}

SOFTGPU_API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction f, int block_size,
                                                        std::size_t dynamic_shared) {
  return max_blocks(blocks, f, block_size, dynamic_shared);
}

SOFTGPU_API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction f, int block_size,
                                                                 std::size_t dynamic_shared, unsigned flags) {
  if ((flags & ~unsigned{CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE}) != 0) return CUDA_ERROR_INVALID_VALUE;
  return max_blocks(blocks, f, block_size, dynamic_shared);
}

SOFTGPU_API cuOccupancyMaxPotentialBlockSizeWithFlags(int* min_grid, int* block_size, CUfunction handle,
                                                      CUoccupancyB2DSize shared_of_block,
                                                      std::size_t dynamic_shared, int limit, unsigned flags) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto function = driver.functions.find(handle);
    if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (min_grid == nullptr || block_size == nullptr ||
        (flags & ~unsigned{CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE}) != 0) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    int largest = static_cast<int>(kernel_attributes(*function->kernel).max_threads_per_block);
    if (limit > 0) largest = std::min(largest, limit);
    int best_threads = 0;
    *min_grid = *block_size = 0;
    constexpr int step = static_cast<int>(warp_size);
    for (int size = (largest + step - 1) / step * step; size > 0; size -= step) {
      const int threads = std::min(size, largest);
      const std::size_t shared = shared_of_block != nullptr ? shared_of_block(threads) : dynamic_shared;
      const int blocks = resident_blocks(*function, threads, shared);
      if (blocks * threads <= best_threads) continue;
      best_threads = blocks * threads;
      *block_size = threads;
      *min_grid = blocks * static_cast<int>(driver.executor.threads());
    }
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuOccupancyMaxPotentialBlockSize(int* min_grid, int* block_size, CUfunction f,
                                             CUoccupancyB2DSize shared_of_block, std::size_t dynamic_shared,
                                             int limit) {
  return cuOccupancyMaxPotentialBlockSizeWithFlags(min_grid, block_size, f, shared_of_block, dynamic_shared,
                                                   limit, 0);
}

SOFTGPU_API cuOccupancyAvailableDynamicSMemPerBlock(std::size_t* bytes, CUfunction handle, int blocks,
                                                    int block_size) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto function = driver.functions.find(handle);
    if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (bytes == nullptr || blocks <= 0 || block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
    if (resident_blocks(*function, block_size, 0) < blocks) return CUDA_ERROR_INVALID_VALUE;
    const unsigned each = shared_per_multiprocessor / static_cast<unsigned>(blocks);
    const unsigned whole = std::min(each, shared_opt_in) / shared_granularity * shared_granularity;
    const unsigned fixed = kernel_attributes(*function->kernel).static_shared_bytes;
    *bytes = whole > fixed ? whole - fixed : 0;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuOccupancyMaxActiveClusters(int* clusters, CUfunction handle, const CUlaunchConfig* config) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (driver.functions.find(handle) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (clusters == nullptr || config == nullptr) return CUDA_ERROR_INVALID_VALUE;
    return CUDA_ERROR_INVALID_CLUSTER_SIZE;  // the device has no clusters
  });
}
