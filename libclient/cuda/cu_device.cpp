// Initialisation, devices and error texts: answered from the devices' reports that came with the connection.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "cudaabi/error_names.hpp"
#include "cudaabi/unsupported.hpp"
#include "libclient/cuda/stub_runtime.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

// Attributes that promise what goes through no broker: sharing in other ways than by our IPC, and memory of
// this process seen by the device at its own address, unless CUDA allocated it.
constexpr CUdevice_attribute kNotOffered[] = {
    CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS,
    CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM,
    CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES,
    CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST,
    CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_WIN32_HANDLE_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_WIN32_KMT_HANDLE_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_TIMELINE_SEMAPHORE_INTEROP_SUPPORTED,
    CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED,
};

// The report of `device`, or the error to return.
struct Device {
  const DeviceReport* report = nullptr;
  CUresult error = CUDA_SUCCESS;
};

Device find_device(CUdevice device) {
  Process* ready = process();
  if (ready == nullptr) return {nullptr, CUDA_ERROR_NOT_INITIALIZED};
  if (!ready->has_device(device)) return {nullptr, CUDA_ERROR_INVALID_DEVICE};
  return {&ready->device(device), CUDA_SUCCESS};
}

CUresult attribute_of(const DeviceReport& report, CUdevice_attribute attribute, int& value) {
  const auto index = static_cast<std::size_t>(attribute);
  if (index >= attribute_count || (report.attributes_valid[index / 64] >> index % 64 & 1) == 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  value = report.attributes[index];
  for (const CUdevice_attribute absent : kNotOffered) {
    if (attribute == absent) value = 0;
  }
  if (attribute == CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES)
    value &= CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return CUDA_SUCCESS;
}

CUresult copy_text(char* out, int capacity, const char* text) {
  if (out == nullptr || capacity <= 0) return CUDA_ERROR_INVALID_VALUE;
  std::snprintf(out, static_cast<std::size_t>(capacity), "%s", text);
  return CUDA_SUCCESS;
}

CUresult copy_uuid(CUuuid* uuid, CUdevice device) {
  if (uuid == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Device found = find_device(device);
  if (found.report == nullptr) return found.error;
  static_assert(sizeof uuid->bytes == sizeof found.report->uuid);
  std::memcpy(uuid->bytes, found.report->uuid, sizeof uuid->bytes);
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;

VGPU_EXPORT CUresult cuInit(unsigned int Flags) {
  if (Flags != 0) return CUDA_ERROR_INVALID_VALUE;
  return initialise();
}

VGPU_EXPORT CUresult cuDriverGetVersion(int* driverVersion) {
  if (driverVersion == nullptr) return CUDA_ERROR_INVALID_VALUE;
  // Without a device there is no driver to ask; this library speaks the ABI it was built for.
  *driverVersion = vgpu::client::driver_version().value_or(CUDA_VERSION);
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuGetErrorName(CUresult error, const char** pStr) {
  if (pStr == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto* text = cudaabi::error_text(static_cast<int>(error));
  *pStr = text != nullptr ? text->name : nullptr;
  return text != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

VGPU_EXPORT CUresult cuGetErrorString(CUresult error, const char** pStr) {
  if (pStr == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto* text = cudaabi::error_text(static_cast<int>(error));
  *pStr = text != nullptr ? text->text : nullptr;
  return text != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

VGPU_EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Device found = find_device(ordinal);
  if (found.report == nullptr) return found.error;
  *device = ordinal;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuDeviceGetCount(int* count) {
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (process() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  *count = static_cast<int>(process()->device_count());
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuDeviceGetName(char* name, int len, CUdevice dev) {
  const Device found = find_device(dev);
  if (found.report == nullptr) return found.error;
  return copy_text(name, len, found.report->name);
}

VGPU_EXPORT CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice dev) {
  return copy_uuid(uuid, dev);
}
VGPU_EXPORT CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice dev) {
  return copy_uuid(uuid, dev);
}

VGPU_EXPORT CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice dev) {
  if (bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Device found = find_device(dev);
  if (found.report == nullptr) return found.error;
  *bytes = found.report->total_memory;
  const auto quota = process()->connection->welcome().memory_quota;
  if (quota != 0 && quota < *bytes) *bytes = quota;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuDeviceTotalMem(unsigned int* bytes, CUdevice dev) {
  if (bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::size_t all = 0;
  const CUresult result = cuDeviceTotalMem_v2(&all, dev);
  if (result == CUDA_SUCCESS) *bytes = all > UINT32_MAX ? UINT32_MAX : static_cast<unsigned int>(all);
  return result;
}

VGPU_EXPORT CUresult cuDeviceGetAttribute(int* pi, CUdevice_attribute attrib, CUdevice dev) {
  if (pi == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Device found = find_device(dev);
  if (found.report == nullptr) return found.error;
  return attribute_of(*found.report, attrib, *pi);
}

VGPU_EXPORT CUresult cuDeviceGetProperties(CUdevprop* prop, CUdevice dev) {
  if (prop == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Device found = find_device(dev);
  if (found.report == nullptr) return found.error;
  *prop = {};
  const struct {
    CUdevice_attribute attribute;
    int* target;
  } wanted[] = {
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, &prop->maxThreadsPerBlock},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, &prop->maxThreadsDim[0]},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, &prop->maxThreadsDim[1]},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, &prop->maxThreadsDim[2]},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, &prop->maxGridSize[0]},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, &prop->maxGridSize[1]},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, &prop->maxGridSize[2]},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, &prop->sharedMemPerBlock},
      {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, &prop->totalConstantMemory},
      {CU_DEVICE_ATTRIBUTE_WARP_SIZE, &prop->SIMDWidth},
      {CU_DEVICE_ATTRIBUTE_MAX_PITCH, &prop->memPitch},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, &prop->regsPerBlock},
      {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, &prop->clockRate},
      {CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, &prop->textureAlign},
  };
  for (const auto& item : wanted)
    static_cast<void>(attribute_of(*found.report, item.attribute, *item.target));
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice dev) {
  if (major == nullptr || minor == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Device found = find_device(dev);
  if (found.report == nullptr) return found.error;
  *major = found.report->compute_major;
  *minor = found.report->compute_minor;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuDeviceGetPCIBusId(char* pciBusId, int len, CUdevice dev) {
  const Device found = find_device(dev);
  if (found.report == nullptr) return found.error;
  // Source: CUDA Driver API, cuDeviceGetPCIBusId: room for 13 characters, with the terminator.
  constexpr int kWhole = 13;
  if (len < kWhole) return CUDA_ERROR_INVALID_VALUE;
  return copy_text(pciBusId, len, found.report->pci_bus_id);
}

VGPU_EXPORT CUresult cuDeviceGetByPCIBusId(CUdevice* dev, const char* pciBusId) {
  if (dev == nullptr || pciBusId == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Device found = find_device(0);
  if (found.report == nullptr) return found.error;
  // [domain:]bus:device[.function], hexadecimal.
  unsigned domain = 0;
  unsigned bus = 0;
  unsigned device = 0;
  if (std::sscanf(pciBusId, "%x:%x:%x", &domain, &bus, &device) != 3) {
    domain = 0;
    if (std::sscanf(pciBusId, "%x:%x", &bus, &device) != 2) return CUDA_ERROR_INVALID_VALUE;
  }
  const auto& devices = process()->connection->devices();
  const auto named = std::find_if(devices.begin(), devices.end(), [&](const vgpu::DeviceReport& report) {
    return static_cast<int>(domain) == report.pci_domain && static_cast<int>(bus) == report.pci_bus &&
           static_cast<int>(device) == report.pci_device;
  });
  if (named == devices.end()) return CUDA_ERROR_INVALID_DEVICE;
  *dev = static_cast<CUdevice>(named - devices.begin());
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuDeviceCanAccessPeer(int* canAccessPeer, CUdevice dev, CUdevice peerDev) {
  if (canAccessPeer == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (const CUdevice each : {dev, peerDev}) {
    if (const Device found = find_device(each); found.report == nullptr) return found.error;
  }
  *canAccessPeer = 0;
  if (dev == peerDev) return CUDA_SUCCESS;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.on_device(dev); result != CUDA_SUCCESS) return result;
  vgpu::record::cuDeviceCanAccessPeer record;
  record.peer = static_cast<std::uint16_t>(peerDev);
  vgpu::reply::cuDeviceCanAccessPeer reply;
  const CUresult result = call.ask(record, reply);
  if (result == CUDA_SUCCESS) *canAccessPeer = reply.can;
  return result;
}

VGPU_EXPORT CUresult cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attrib, CUdevice srcDevice,
                                             CUdevice dstDevice) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (const CUdevice each : {srcDevice, dstDevice}) {
    if (const Device found = find_device(each); found.report == nullptr) return found.error;
  }
  if (srcDevice == dstDevice) return CUDA_ERROR_INVALID_DEVICE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.on_device(srcDevice); result != CUDA_SUCCESS) return result;
  vgpu::record::cuDeviceGetP2PAttribute record;
  record.attribute = static_cast<std::int32_t>(attrib);
  record.peer = static_cast<std::uint16_t>(dstDevice);
  vgpu::reply::cuDeviceGetP2PAttribute reply;
  const CUresult result = call.ask(record, reply);
  if (result == CUDA_SUCCESS) *value = reply.value;
  return result;
}

VGPU_EXPORT CUresult cuDeviceGetExecAffinitySupport(int* pi, CUexecAffinityType, CUdevice dev) {
  if (pi == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Device found = find_device(dev);
  if (found.report == nullptr) return found.error;
  *pi = 0;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) {
  if (mode == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Device found = find_device(0);
  if (found.report == nullptr) return found.error;
  *mode = static_cast<CUmoduleLoadingMode>(found.report->module_loading_mode);
  return CUDA_SUCCESS;
}

// Needs no context, unlike what is asked of the worker.
VGPU_EXPORT CUresult cuMemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* prop,
                                                   CUmemAllocationGranularity_flags option) {
  if (granularity == nullptr || prop == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const bool device_local =
      prop->type == CU_MEM_ALLOCATION_TYPE_PINNED && prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
  const Device found = find_device(device_local ? prop->location.id : 0);
  if (found.report == nullptr) return found.error;
  if (!device_local)
    return static_cast<CUresult>(
        cudaabi::note_unsupported("cuMemGetAllocationGranularity: not on the device"));
  switch (option) {
    case CU_MEM_ALLOC_GRANULARITY_MINIMUM:
      *granularity = found.report->allocation_granularity_min;
      break;
    case CU_MEM_ALLOC_GRANULARITY_RECOMMENDED:
      *granularity = found.report->allocation_granularity_recommended;
      break;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  return *granularity != 0 ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

// A profiler attaches to the driver in the worker, not to this process: there is nothing here to start or to
// stop.
VGPU_EXPORT CUresult cuProfilerStart() {
  return process() != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}
VGPU_EXPORT CUresult cuProfilerStop() {
  return process() != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

VGPU_EXPORT CUresult cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.on_device(device); result != CUDA_SUCCESS) return result;
  vgpu::record::cuDeviceGetGraphMemAttribute record;
  record.attribute = static_cast<std::int32_t>(attr);
  vgpu::reply::cuDeviceGetGraphMemAttribute reply;
  const CUresult result = call.ask(record, reply);
  if (result == CUDA_SUCCESS) *static_cast<cuuint64_t*>(value) = reply.value;
  return result;
}
VGPU_EXPORT CUresult cuDeviceSetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.on_device(device); result != CUDA_SUCCESS) return result;
  vgpu::record::cuDeviceSetGraphMemAttribute record;
  record.attribute = static_cast<std::int32_t>(attr);
  record.value = *static_cast<const cuuint64_t*>(value);
  return call.ask(record);
}
