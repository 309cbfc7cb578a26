// cuDevice*: the devices and what they can do; the driver's version; errors' names. What they are to each
// other stands in api_peer.cpp.
#include <cstdio>
#include <cstring>

#include "cudaabi/error_names.hpp"
#include "softgpu/driver/api.hpp"
#include "softgpu/driver/device.hpp"

using namespace softgpu;

SOFTGPU_API cuDriverGetVersion(int* version) {
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *version = driver_version;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuGetErrorName(CUresult error, const char** name) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto* const text = cudaabi::error_text(error);
  *name = text != nullptr ? text->name : nullptr;
  return text != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

SOFTGPU_API cuGetErrorString(CUresult error, const char** string) {
  if (string == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto* const text = cudaabi::error_text(error);
  *string = text != nullptr ? text->text : nullptr;
  return text != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

SOFTGPU_API cuDeviceGetCount(int* count) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *count = driver.device_count();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceGet(CUdevice* device, int ordinal) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (!driver.has_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceGetName(char* name, int size, CUdevice device) {
  return with_device(device, [&](Driver&, Device&) -> CUresult {
    if (name == nullptr || size <= 0) return CUDA_ERROR_INVALID_VALUE;
    std::snprintf(name, static_cast<std::size_t>(size), "%s", device_name);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
  return with_device(device, [&](Driver&, Device&) -> CUresult {
    if (uuid == nullptr) return CUDA_ERROR_INVALID_VALUE;
    std::memcpy(uuid->bytes, device_uuid(device).data(), sizeof uuid->bytes);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  return cuDeviceGetUuid_v2(uuid, device);
}

SOFTGPU_API cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice device) {
  return with_device(device, [&](Driver& driver, Device&) -> CUresult {
    if (bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *bytes = driver.memory.total();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  return with_device(device, [&](Driver&, Device&) -> CUresult {
    if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const auto known = device_attribute(attribute, device);
    if (!known) return CUDA_ERROR_INVALID_VALUE;
    *value = *known;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceComputeCapability(int* major, int* minor, CUdevice device) {
  return with_device(device, [&](Driver&, Device&) -> CUresult {
    if (major == nullptr || minor == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *major = compute_major;
    *minor = compute_minor;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceGetProperties(CUdevprop* properties, CUdevice device) {
  return with_device(device, [&](Driver&, Device&) -> CUresult {
    if (properties == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *properties = {};
    properties->maxThreadsPerBlock = max_block_threads;
    properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = max_block_threads;
    properties->maxThreadsDim[2] = max_block_z;
    properties->maxGridSize[0] = max_grid_x;
    properties->maxGridSize[1] = properties->maxGridSize[2] = max_grid_yz;
    properties->sharedMemPerBlock = shared_default;
    properties->totalConstantMemory = 65536;
    properties->SIMDWidth = warp_size;
    properties->memPitch = 0x7fffffff;
    properties->regsPerBlock = registers;
    properties->clockRate = *device_attribute(CU_DEVICE_ATTRIBUTE_CLOCK_RATE, device);
    properties->textureAlign = texture_alignment;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceGetPCIBusId(char* id, int size, CUdevice device) {
  return with_device(device, [&](Driver&, Device&) -> CUresult {
    constexpr int needed = 13;
    if (id == nullptr || size < needed) return CUDA_ERROR_INVALID_VALUE;
    std::snprintf(id, static_cast<std::size_t>(size), "%04x:%02x:%02x.0", pci_domain, pci_bus(device),
                  pci_device);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceGetByPCIBusId(CUdevice* device, const char* id) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (device == nullptr || id == nullptr) return CUDA_ERROR_INVALID_VALUE;
    unsigned domain = 0;
    unsigned bus = 0;
    unsigned slot = 0;
    if (std::sscanf(id, "%x:%x:%x", &domain, &bus, &slot) != 3) {  // NOLINT(cert-err34-c)
      domain = 0;
      if (std::sscanf(id, "%x:%x", &bus, &slot) != 2)
        return CUDA_ERROR_INVALID_VALUE;  // NOLINT(cert-err34-c)
    }
    if (domain != pci_domain || slot != pci_device) return CUDA_ERROR_INVALID_DEVICE;
    for (const auto& each : driver.devices) {
      if (static_cast<int>(bus) != pci_bus(each->ordinal)) continue;
      *device = each->ordinal;
      return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_DEVICE;
  });
}

SOFTGPU_API cuDeviceGetExecAffinitySupport(int* supported, CUexecAffinityType, CUdevice device) {
  return with_device(device, [&](Driver&, Device&) -> CUresult {
    if (supported == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *supported = 0;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuFlushGPUDirectRDMAWrites(CUflushGPUDirectRDMAWritesTarget, CUflushGPUDirectRDMAWritesScope) {
  return in_context([](Driver&, Context&) { return CUDA_ERROR_NOT_SUPPORTED; });
}

SOFTGPU_API cuProfilerStart(void) {
  return in_context([](Driver&, Context&) { return CUDA_SUCCESS; });
}

SOFTGPU_API cuProfilerStop(void) {
  return in_context([](Driver&, Context&) { return CUDA_SUCCESS; });
}
