// Kernel launches and host functions. A launch is checked here, packed straight into the ring and not waited
// for.
#include <algorithm>
#include <cstring>
#include <vector>

#include "libclient/cuda/images.hpp"
#include "libclient/cuda/upcalls.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

constexpr std::uint32_t kCooperative = 1;

struct Shape {
  unsigned grid_x, grid_y, grid_z;
  unsigned block_x, block_y, block_z;
  unsigned dynamic_shared;
};

struct Arguments {
  void** kernel_params = nullptr;
  void** extra = nullptr;
  std::span<const CUlaunchAttribute> attributes;
  std::uint32_t flags = 0;
};

// What the driver refuses at the call itself.
CUresult check_shape(const Call& call, const Function& function, const Shape& shape) {
  const auto& limits = call.process().launch_limits;
  const auto& attributes = function.attributes[static_cast<std::size_t>(call.context()->device)];
  if (shape.grid_x == 0 || shape.grid_y == 0 || shape.grid_z == 0 || shape.block_x == 0 ||
      shape.block_y == 0 || shape.block_z == 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (shape.grid_x > limits.grid[0] || shape.grid_y > limits.grid[1] || shape.grid_z > limits.grid[2] ||
      shape.block_x > limits.block[0] || shape.block_y > limits.block[1] || shape.block_z > limits.block[2]) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const std::uint64_t threads = std::uint64_t{shape.block_x} * shape.block_y * shape.block_z;
  if (threads > limits.threads) return CUDA_ERROR_INVALID_VALUE;
  if ((function.attributes_valid & 1U << CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK) != 0) {
    const int most = attributes[CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK].load(std::memory_order_relaxed);
    if (most > 0 && threads > static_cast<unsigned>(most)) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  }
  if ((function.attributes_valid & 1U << CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) != 0) {
    const int most =
        attributes[CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES].load(std::memory_order_relaxed);
    if (most >= 0 && shape.dynamic_shared > static_cast<unsigned>(most)) return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

bool has_cooperative(std::span<const CUlaunchAttribute> attributes) {
  return std::any_of(attributes.begin(), attributes.end(), [](const CUlaunchAttribute& attribute) {
    return attribute.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE && attribute.value.cooperative != 0;
  });
}

// All blocks of a cooperative launch must fit the device at once.
CUresult check_cooperative(const Call& call, CUfunction function, const Shape& shape) {
  const auto threads = static_cast<int>(shape.block_x * shape.block_y * shape.block_z);
  int blocks = 0;
  int processors = 0;
  if (const CUresult result =
          cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, threads, shape.dynamic_shared);
      result != CUDA_SUCCESS) {
    return result;
  }
  if (const CUresult result =
          cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, call.context()->device);
      result != CUDA_SUCCESS) {
    return result;
  }
  const std::uint64_t grid = std::uint64_t{shape.grid_x} * shape.grid_y * shape.grid_z;
  const std::uint64_t most = static_cast<std::uint64_t>(blocks) * static_cast<std::uint64_t>(processors);
  return grid > most ? CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE : CUDA_SUCCESS;
}

// Writes a launch's tail: attributes, then the packed parameters.
void write_tail(std::byte* out, const Function& function, const Arguments& arguments,
                const ExtraBuffer& extra) {
  if (!arguments.attributes.empty()) {
    std::memcpy(out, arguments.attributes.data(), arguments.attributes.size_bytes());
    out += arguments.attributes.size_bytes();
  }
  if (arguments.extra != nullptr) {
    if (extra.bytes != 0) std::memcpy(out, extra.data, extra.bytes);
  } else {
    function.layout.pack(arguments.kernel_params, out);
  }
}

CUresult launch(CUfunction handle, const Shape& shape, CUstream stream, bool per_thread,
                const Arguments& arguments) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const Function* function = find_function(call.process(), bits(handle));
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult result = check_shape(call, *function, shape); result != CUDA_SUCCESS) return result;
  if (arguments.flags == kCooperative || has_cooperative(arguments.attributes)) {
    if (const CUresult result = check_cooperative(call, handle, shape); result != CUDA_SUCCESS) return result;
  }
  ExtraBuffer extra;
  std::size_t parameter_bytes = function->layout.total_bytes();
  if (arguments.extra != nullptr) {
    if (arguments.kernel_params != nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult result = read_extra(arguments.extra, extra); result != CUDA_SUCCESS) return result;
    // The driver wants every parameter; what is longer than the kernel's list is padding.
    if (extra.bytes < parameter_bytes) return CUDA_ERROR_INVALID_VALUE;
    extra.bytes = parameter_bytes;
  } else if (parameter_bytes != 0 && arguments.kernel_params == nullptr) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  record::cuLaunchKernel record;
  record.function = bits(handle);
  record.stream = call.stream(stream, per_thread);
  if (call.problem() != CUDA_SUCCESS) return call.problem();
  record.grid_x = shape.grid_x;
  record.grid_y = shape.grid_y;
  record.grid_z = shape.grid_z;
  record.block_x = shape.block_x;
  record.block_y = shape.block_y;
  record.block_z = shape.block_z;
  record.dynamic_shared = shape.dynamic_shared;
  record.flags = arguments.flags;
  record.attribute_count = static_cast<std::uint32_t>(arguments.attributes.size());
  record.param_bytes = static_cast<std::uint32_t>(parameter_bytes);
  const std::size_t tail = arguments.attributes.size_bytes() + parameter_bytes;
  if (call.process().captures.load(std::memory_order_relaxed) != 0) {
    std::vector<std::byte> copy(tail);
    write_tail(copy.data(), *function, arguments, extra);
    return call.post(record, copy);
  }
  if (call.process().mirrors.any()) call.process().mirrors.before_work(call);
  call.prepare(record.header);
  record.header.size = static_cast<std::uint32_t>(sizeof record + tail);
  Connection& connection = call.connection();
  const RingProducer::Slot slot = connection.reserve(sizeof record + tail);
  if (!slot) return connection.error();
  call.reserved(slot.position);
  std::memcpy(slot.bytes, &record, sizeof record);
  write_tail(slot.bytes + sizeof record, *function, arguments, extra);
  connection.publish(slot, false);
  return CUDA_SUCCESS;
}

CUresult launch_ex(const CUlaunchConfig* config, CUfunction f, void** params, void** extra, bool per_thread) {
  constexpr unsigned kMostAttributes = 64;
  if (config == nullptr || config->numAttrs > kMostAttributes ||
      (config->numAttrs != 0 && config->attrs == nullptr)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const Shape shape{config->gridDimX,  config->gridDimY,  config->gridDimZ,      config->blockDimX,
                    config->blockDimY, config->blockDimZ, config->sharedMemBytes};
  Arguments arguments;
  arguments.kernel_params = params;
  arguments.extra = extra;
  arguments.attributes = std::span(config->attrs, config->numAttrs);
  return launch(f, shape, config->hStream, per_thread, arguments);
}

CUresult launch_host_function(CUstream stream, CUhostFn function, void* user, bool per_thread) {
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  record::cuLaunchHostFunc record;
  record.stream = call.stream(stream, per_thread);
  record.function = reinterpret_cast<std::uint64_t>(function);
  record.user = bits(user);
  if (!start_upcalls(call.process())) return CUDA_ERROR_OPERATING_SYSTEM;
  return call.post(record);
}

CUresult add_callback(CUstream stream, CUstreamCallback function, void* user, unsigned flags,
                      bool per_thread) {
  if (function == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  record::cuStreamAddCallback record;
  record.stream = call.stream(stream, per_thread);
  record.function = reinterpret_cast<std::uint64_t>(function);
  record.user = bits(user);
  record.flags = flags;
  if (!start_upcalls(call.process())) return CUDA_ERROR_OPERATING_SYSTEM;
  return call.post(record);
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;

VGPU_EXPORT CUresult cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                    unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                                    unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                                    void** kernelParams, void** extra) {
  return launch(f, {gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes}, hStream,
                false, {kernelParams, extra, {}, 0});
}
VGPU_EXPORT CUresult cuLaunchKernel_ptsz(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                         unsigned int gridDimZ, unsigned int blockDimX,
                                         unsigned int blockDimY, unsigned int blockDimZ,
                                         unsigned int sharedMemBytes, CUstream hStream, void** kernelParams,
                                         void** extra) {
  return launch(f, {gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes}, hStream,
                true, {kernelParams, extra, {}, 0});
}
VGPU_EXPORT CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                               unsigned int gridDimZ, unsigned int blockDimX,
                                               unsigned int blockDimY, unsigned int blockDimZ,
                                               unsigned int sharedMemBytes, CUstream hStream,
                                               void** kernelParams) {
  return launch(f, {gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes}, hStream,
                false, {kernelParams, nullptr, {}, kCooperative});
}
VGPU_EXPORT CUresult cuLaunchCooperativeKernel_ptsz(CUfunction f, unsigned int gridDimX,
                                                    unsigned int gridDimY, unsigned int gridDimZ,
                                                    unsigned int blockDimX, unsigned int blockDimY,
                                                    unsigned int blockDimZ, unsigned int sharedMemBytes,
                                                    CUstream hStream, void** kernelParams) {
  return launch(f, {gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes}, hStream,
                true, {kernelParams, nullptr, {}, kCooperative});
}
VGPU_EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction f, void** kernelParams,
                                      void** extra) {
  return launch_ex(config, f, kernelParams, extra, false);
}
VGPU_EXPORT CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig* config, CUfunction f, void** kernelParams,
                                           void** extra) {
  return launch_ex(config, f, kernelParams, extra, true);
}
VGPU_EXPORT CUresult cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void* userData) {
  return launch_host_function(hStream, fn, userData, false);
}
VGPU_EXPORT CUresult cuLaunchHostFunc_ptsz(CUstream hStream, CUhostFn fn, void* userData) {
  return launch_host_function(hStream, fn, userData, true);
}
VGPU_EXPORT CUresult cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void* userData,
                                         unsigned int flags) {
  return add_callback(hStream, callback, userData, flags, false);
}
VGPU_EXPORT CUresult cuStreamAddCallback_ptsz(CUstream hStream, CUstreamCallback callback, void* userData,
                                              unsigned int flags) {
  return add_callback(hStream, callback, userData, flags, true);
}
