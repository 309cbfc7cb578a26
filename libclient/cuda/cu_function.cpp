// Functions and kernels: attributes, parameters, names, occupancy. The driver computes; each answer is asked
// for once.
#include <algorithm>

#include "libclient/cuda/images.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

struct Target {
  Function* function = nullptr;
  CUresult error = CUDA_SUCCESS;
};

// Of the device that the call is about.
std::size_t device_asked(const Call& call) {
  return static_cast<std::size_t>(call.context() != nullptr ? call.context()->device : 0);
}

Target enter(Call& call, std::uint64_t handle) {
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return {nullptr, result};
  Function* function = find_function(call.process(), handle);
  return {function, function != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE};
}

// Of a kernel, whose attributes are those of one device: the current one.
constexpr CUdevice kCurrent = -1;

CUresult choose_device(Call& call, CUdevice device) {
  return device == kCurrent ? CUDA_SUCCESS : call.on_device(device);
}

CUresult get_attribute(std::uint64_t handle, CUfunction_attribute attribute, int* value,
                       CUdevice device = kCurrent) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  const auto [function, error] = enter(call, handle);
  if (function == nullptr) return error;
  if (const CUresult result = choose_device(call, device); result != CUDA_SUCCESS) return result;
  return function_attribute(call, *function, attribute, *value);
}

CUresult set_attribute(std::uint64_t handle, CUfunction_attribute attribute, int value,
                       CUdevice device = kCurrent) {
  Call call;
  const auto [function, error] = enter(call, handle);
  if (function == nullptr) return error;
  if (const CUresult result = choose_device(call, device); result != CUDA_SUCCESS) return result;
  const auto index = static_cast<std::size_t>(attribute);
  if (index >= function_attribute_count) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = CUDA_SUCCESS;
  if (Handle::kind(handle) == HandleKind::kernel) {
    record::cuKernelSetAttribute record;
    record.kernel = handle;
    record.attrib = static_cast<std::int32_t>(attribute);
    record.value = value;
    result = call.ask(record);
  } else {
    record::cuFuncSetAttribute record;
    record.function = handle;
    record.attrib = static_cast<std::int32_t>(attribute);
    record.value = value;
    result = call.ask(record);
  }
  if (result != CUDA_SUCCESS) return result;
  const auto remember = [&](Function& changed) {
    changed.attributes[device_asked(call)][index] = value;
    const std::lock_guard lock(changed.occupancy_mutex);
    changed.occupancy.clear();
  };
  remember(*function);
  if (const std::uint64_t counterpart = function->counterparts[device_asked(call)]) {
    if (Function* twin = call.process().functions.find(counterpart)) remember(*twin);
  }
  return CUDA_SUCCESS;
}

CUresult get_parameter(std::uint64_t handle, std::size_t index, std::size_t* offset, std::size_t* size) {
  if (offset == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  const auto [function, error] = enter(call, handle);
  if (function == nullptr) return error;
  const auto& parameters = function->layout.parameters();
  if (index >= parameters.size()) return CUDA_ERROR_INVALID_VALUE;
  *offset = parameters[index].offset;
  if (size != nullptr) *size = parameters[index].size;
  return CUDA_SUCCESS;
}

CUresult get_name(const char** name, std::uint64_t handle) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  const auto [function, error] = enter(call, handle);
  if (function == nullptr) return error;
  *name = function->name.c_str();
  return CUDA_SUCCESS;
}

CUresult active_blocks(int* blocks, CUfunction func, int block_size, std::size_t dynamic_shared,
                       unsigned flags) {
  if (blocks == nullptr || block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  const auto [function, error] = enter(call, bits(func));
  if (function == nullptr) return error;
  const bool cacheable = call.process().contexts.only_primary() && dynamic_shared < (std::size_t{1} << 32) &&
                         block_size < 65536 && flags < 65536;
  const std::uint64_t key = dynamic_shared << 32 | static_cast<std::uint64_t>(block_size) << 16 | flags;
  if (cacheable) {
    const std::lock_guard lock(function->occupancy_mutex);
    if (const auto known = function->occupancy.find(key); known != function->occupancy.end()) {
      *blocks = known->second;
      return CUDA_SUCCESS;
    }
  }
  record::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags record;
  record.function = bits(func);
  record.block_size = block_size;
  record.dynamic_shared = dynamic_shared;
  record.flags = flags;
  reply::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  if (cacheable) {
    const std::lock_guard lock(function->occupancy_mutex);
    function->occupancy.emplace(key, reply.blocks);
  }
  *blocks = reply.blocks;
  return CUDA_SUCCESS;
}

// The search of NVIDIA's published occupancy calculator (cuda_occupancy.h): the largest multiple of a warp
// that gives most threads a multiprocessor.
CUresult best_block_size(int* grid, int* block, CUfunction func, CUoccupancyB2DSize to_shared,
                         std::size_t dynamic_shared, int limit, unsigned flags) {
  if (grid == nullptr || block == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Context* const current = this_thread().current;
  const auto device = [number = current != nullptr ? current->device : 0](CUdevice_attribute attribute) {
    int value = 0;
    return cuDeviceGetAttribute(&value, attribute, number) == CUDA_SUCCESS ? value : 0;
  };
  int function_limit = 0;
  if (const CUresult result =
          get_attribute(bits(func), CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, &function_limit);
      result != CUDA_SUCCESS) {
    return result;
  }
  const int most = device(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
  const int warp = std::max(1, device(CU_DEVICE_ATTRIBUTE_WARP_SIZE));
  const int device_limit = device(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
  if (limit <= 0) limit = device_limit;
  limit = std::min({limit, device_limit, function_limit});
  int best_threads = 0;
  int best_size = 0;
  int best_blocks = 0;
  for (int aligned = (limit + warp - 1) / warp * warp; aligned > 0; aligned -= warp) {
    const int size = std::min(limit, aligned);
    const std::size_t shared = to_shared != nullptr ? to_shared(size) : dynamic_shared;
    int blocks = 0;
    if (const CUresult result = active_blocks(&blocks, func, size, shared, flags); result != CUDA_SUCCESS)
      return result;
    if (size * blocks > best_threads) {
      best_threads = size * blocks;
      best_size = size;
      best_blocks = blocks;
    }
    if (best_threads >= most) break;
  }
  *grid = best_blocks * device(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  *block = best_size;
  return CUDA_SUCCESS;
}

// Both cluster queries take a launch configuration and answer one number.
template <class Record>
CUresult fill_config(Record& record, CUfunction func, const CUlaunchConfig* config) {
  if (config == nullptr || (config->numAttrs != 0 && config->attrs == nullptr))
    return CUDA_ERROR_INVALID_VALUE;
  record.function = bits(func);
  record.grid_x = config->gridDimX;
  record.grid_y = config->gridDimY;
  record.grid_z = config->gridDimZ;
  record.block_x = config->blockDimX;
  record.block_y = config->blockDimY;
  record.block_z = config->blockDimZ;
  record.dynamic_shared = config->sharedMemBytes;
  record.attribute_count = config->numAttrs;
  return CUDA_SUCCESS;
}

std::span<const std::byte> attributes_of(const CUlaunchConfig& config) {
  return std::as_bytes(std::span(config.attrs, config.numAttrs));
}

CUresult set_cache_config(std::uint64_t handle, CUfunc_cache config, CUdevice device = kCurrent) {
  Call call;
  const auto [function, error] = enter(call, handle);
  if (function == nullptr) return error;
  if (const CUresult result = choose_device(call, device); result != CUDA_SUCCESS) return result;
  if (Handle::kind(handle) == HandleKind::kernel) {
    record::cuKernelSetCacheConfig record;
    record.kernel = handle;
    record.config = static_cast<std::int32_t>(config);
    return call.post(record);
  }
  record::cuFuncSetCacheConfig record;
  record.function = handle;
  record.config = static_cast<std::int32_t>(config);
  return call.post(record);
}

}  // namespace

CUresult function_attribute(Call& call, Function& function, CUfunction_attribute attribute, int& value) {
  const auto index = static_cast<std::size_t>(attribute);
  if (index >= function_attribute_count) return CUDA_ERROR_INVALID_VALUE;
  if ((function.attributes_valid >> index & 1) != 0) {
    value = function.attributes[device_asked(call)][index].load(std::memory_order_relaxed);
    return CUDA_SUCCESS;
  }
  if (Handle::kind(function.handle) == HandleKind::kernel) {
    record::cuKernelGetAttribute record;
    record.kernel = function.handle;
    record.attrib = static_cast<std::int32_t>(attribute);
    reply::cuKernelGetAttribute reply;
    const CUresult result = call.ask(record, reply);
    if (result == CUDA_SUCCESS) value = reply.value;
    return result;
  }
  record::cuFuncGetAttribute record;
  record.function = function.handle;
  record.attrib = static_cast<std::int32_t>(attribute);
  reply::cuFuncGetAttribute reply;
  const CUresult result = call.ask(record, reply);
  if (result == CUDA_SUCCESS) value = reply.value;
  return result;
}

}  // namespace vgpu::client

using namespace vgpu::client;
namespace record = vgpu::record;
namespace reply = vgpu::reply;

VGPU_EXPORT CUresult cuFuncGetAttribute(int* pi, CUfunction_attribute attrib, CUfunction hfunc) {
  return get_attribute(bits(hfunc), attrib, pi);
}
VGPU_EXPORT CUresult cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value) {
  return set_attribute(bits(hfunc), attrib, value);
}
VGPU_EXPORT CUresult cuKernelGetAttribute(int* pi, CUfunction_attribute attrib, CUkernel kernel,
                                          CUdevice dev) {
  return get_attribute(bits(kernel), attrib, pi, dev);
}
VGPU_EXPORT CUresult cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel,
                                          CUdevice dev) {
  return set_attribute(bits(kernel), attrib, val, dev);
}
VGPU_EXPORT CUresult cuFuncGetParamInfo(CUfunction func, size_t paramIndex, size_t* paramOffset,
                                        size_t* paramSize) {
  return get_parameter(bits(func), paramIndex, paramOffset, paramSize);
}
VGPU_EXPORT CUresult cuKernelGetParamInfo(CUkernel kernel, size_t paramIndex, size_t* paramOffset,
                                          size_t* paramSize) {
  return get_parameter(bits(kernel), paramIndex, paramOffset, paramSize);
}
VGPU_EXPORT CUresult cuFuncGetName(const char** name, CUfunction hfunc) {
  return get_name(name, bits(hfunc));
}
VGPU_EXPORT CUresult cuKernelGetName(const char** name, CUkernel hfunc) {
  return get_name(name, bits(hfunc));
}
VGPU_EXPORT CUresult cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache config) {
  return set_cache_config(bits(hfunc), config);
}
VGPU_EXPORT CUresult cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice dev) {
  return set_cache_config(bits(kernel), config, dev);
}

VGPU_EXPORT CUresult cuFuncSetSharedMemConfig(CUfunction hfunc, CUsharedconfig config) {
  Call call;
  const auto [function, error] = enter(call, bits(hfunc));
  if (function == nullptr) return error;
  record::cuFuncSetSharedMemConfig record;
  record.function = bits(hfunc);
  record.config = static_cast<std::int32_t>(config);
  return call.post(record);
}

VGPU_EXPORT CUresult cuFuncGetModule(CUmodule* hmod, CUfunction hfunc) {
  if (hmod == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  const auto [function, error] = enter(call, bits(hfunc));
  if (function == nullptr) return error;
  if (vgpu::Handle::kind(function->owner) == vgpu::HandleKind::library) {
    return cuLibraryGetModule(hmod, from_bits<CUlibrary>(function->owner));
  }
  *hmod = from_bits<CUmodule>(function->owner);
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuKernelGetLibrary(CUlibrary* pLib, CUkernel kernel) {
  if (pLib == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  const auto [function, error] = enter(call, bits(kernel));
  if (function == nullptr) return error;
  *pLib = from_bits<CUlibrary>(function->owner);
  return CUDA_SUCCESS;
}

// The worker's driver loads lazily by itself; what the client can name is loaded as far as a program can
// tell.
VGPU_EXPORT CUresult cuFuncIsLoaded(CUfunctionLoadingState* state, CUfunction function) {
  if (state == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  const auto [found, error] = enter(call, bits(function));
  if (found == nullptr) return error;
  *state = CU_FUNCTION_LOADING_STATE_LOADED;
  return CUDA_SUCCESS;
}
VGPU_EXPORT CUresult cuFuncLoad(CUfunction function) {
  Call call;
  return enter(call, bits(function)).error;
}

VGPU_EXPORT CUresult cuKernelGetFunction(CUfunction* pFunc, CUkernel kernel) {
  if (pFunc == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  Function* found = call.process().kernels.find(bits(kernel));
  if (found == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  std::atomic<std::uint64_t>& counterpart =
      found->counterparts[static_cast<std::size_t>(call.context()->device)];
  if (counterpart == 0) {
    const std::lock_guard lock(found->occupancy_mutex);
    if (counterpart == 0) {
      const auto [function, handle] = call.process().functions.create();
      if (function == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
      function->handle = handle;
      function->owner = found->owner;
      function->kernel = found->handle;
      function->name = found->name;
      function->layout = found->layout;
      function->attributes_valid = found->attributes_valid;
      for (std::size_t device = 0; device < found->attributes.size(); ++device) {
        for (std::size_t i = 0; i < found->attributes[device].size(); ++i)
          function->attributes[device][i] = found->attributes[device][i].load();
      }
      record::cuKernelGetFunction record;
      record.kernel = bits(kernel);
      record.function = handle;
      if (const CUresult result = call.post(record); result != CUDA_SUCCESS) {
        call.process().functions.destroy(handle);
        return result;
      }
      counterpart = handle;
    }
  }
  *pFunc = from_bits<CUfunction>(counterpart.load());
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* numBlocks, CUfunction func,
                                                                 int blockSize, size_t dynamicSMemSize) {
  return active_blocks(numBlocks, func, blockSize, dynamicSMemSize, 0);
}
VGPU_EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* numBlocks, CUfunction func,
                                                                          int blockSize,
                                                                          size_t dynamicSMemSize,
                                                                          unsigned int flags) {
  return active_blocks(numBlocks, func, blockSize, dynamicSMemSize, flags);
}
VGPU_EXPORT CUresult cuOccupancyMaxPotentialBlockSize(int* minGridSize, int* blockSize, CUfunction func,
                                                      CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                                      size_t dynamicSMemSize, int blockSizeLimit) {
  return best_block_size(minGridSize, blockSize, func, blockSizeToDynamicSMemSize, dynamicSMemSize,
                         blockSizeLimit, 0);
}
VGPU_EXPORT CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int* minGridSize, int* blockSize,
                                                               CUfunction func,
                                                               CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                                               size_t dynamicSMemSize, int blockSizeLimit,
                                                               unsigned int flags) {
  return best_block_size(minGridSize, blockSize, func, blockSizeToDynamicSMemSize, dynamicSMemSize,
                         blockSizeLimit, flags);
}

VGPU_EXPORT CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t* dynamicSmemSize, CUfunction func,
                                                             int numBlocks, int blockSize) {
  if (dynamicSmemSize == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  const auto [function, error] = enter(call, bits(func));
  if (function == nullptr) return error;
  record::cuOccupancyAvailableDynamicSMemPerBlock record;
  record.function = bits(func);
  record.blocks = numBlocks;
  record.block_size = blockSize;
  reply::cuOccupancyAvailableDynamicSMemPerBlock reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  *dynamicSmemSize = reply.bytes;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuOccupancyMaxActiveClusters(int* numClusters, CUfunction func,
                                                  const CUlaunchConfig* config) {
  if (numClusters == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  const auto [function, error] = enter(call, bits(func));
  if (function == nullptr) return error;
  record::cuOccupancyMaxActiveClusters record;
  if (const CUresult result = fill_config(record, func, config); result != CUDA_SUCCESS) return result;
  reply::cuOccupancyMaxActiveClusters reply;
  if (const CUresult result = call.ask(record, reply, attributes_of(*config)); result != CUDA_SUCCESS)
    return result;
  *numClusters = reply.clusters;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuOccupancyMaxPotentialClusterSize(int* clusterSize, CUfunction func,
                                                        const CUlaunchConfig* config) {
  if (clusterSize == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  const auto [function, error] = enter(call, bits(func));
  if (function == nullptr) return error;
  record::cuOccupancyMaxPotentialClusterSize record;
  if (const CUresult result = fill_config(record, func, config); result != CUDA_SUCCESS) return result;
  reply::cuOccupancyMaxPotentialClusterSize reply;
  if (const CUresult result = call.ask(record, reply, attributes_of(*config)); result != CUDA_SUCCESS)
    return result;
  *clusterSize = reply.size;
  return CUDA_SUCCESS;
}
