#include "daemon/worker/session_waits_fixture.hpp"

namespace vgpu::worker {

DriverTable waiting_table() {
  DriverTable table;
  table.cuCtxSetCurrent = [](CUcontext) { return CUDA_SUCCESS; };
  table.cuModuleLoadData = [](CUmodule* module, const void*) {
    *module = reinterpret_cast<CUmodule>(0x30);
    return CUDA_SUCCESS;
  };
  table.cuModuleGetFunction = [](CUfunction* function, CUmodule, const char*) {
    *function = reinterpret_cast<CUfunction>(0x40);
    return CUDA_SUCCESS;
  };
  table.cuLaunchKernel = [](CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                            CUstream, void**, void**) {
    BusyDevice& device = BusyDevice::get();
    const std::lock_guard lock(device.mutex);
    device.busy = true;
    ++device.launches;
    return CUDA_SUCCESS;
  };
  table.cuStreamQuery = [](CUstream) { return BusyDevice::get().state(); };
  table.cuStreamSynchronize = [](CUstream) {
    ++BusyDevice::get().synchronisations;
    return CUDA_SUCCESS;
  };
  table.cuEventCreate = [](CUevent* event, unsigned) {
    *event = reinterpret_cast<CUevent>(0x50);
    return CUDA_SUCCESS;
  };
  table.cuEventRecord = [](CUevent, CUstream) {
    ++BusyDevice::get().events_recorded;
    return CUDA_SUCCESS;
  };
  table.cuEventQuery = [](CUevent) { return BusyDevice::get().state(); };
  table.cuEventSynchronize = [](CUevent) {
    BusyDevice& device = BusyDevice::get();
    std::unique_lock lock(device.mutex);
    device.moved.wait(lock, [&] { return !device.busy; });
    return CUDA_SUCCESS;
  };
  table.cuPointerGetAttribute = [](void* data, CUpointer_attribute, CUdeviceptr) {
    *static_cast<unsigned*>(data) = CU_MEMORYTYPE_DEVICE;
    return CUDA_SUCCESS;
  };
  table.cuMemAlloc_v2 = [](CUdeviceptr* pointer, size_t) {
    *pointer = 0x100000;
    return CUDA_SUCCESS;
  };
  table.cuMemFree_v2 = [](CUdeviceptr) {
    BusyDevice& device = BusyDevice::get();
    EXPECT_EQ(device.state(), CUDA_SUCCESS);  // a driver would wait here, and let nobody in
    device.launches_before_free = device.launches.load();
    ++device.frees;
    return CUDA_SUCCESS;
  };
  table.cuStreamCreateWithPriority = [](CUstream* stream, unsigned, int) {
    *stream = reinterpret_cast<CUstream>(0x60 + 0x10 * BusyDevice::get().streams++);
    return CUDA_SUCCESS;
  };
  table.cuStreamDestroy_v2 = [](CUstream) { return CUDA_SUCCESS; };
  table.cuMemcpyHtoDAsync_v2 = [](CUdeviceptr, const void*, size_t, CUstream) {
    BusyDevice& device = BusyDevice::get();
    const std::lock_guard lock(device.mutex);
    device.busy = true;
    ++device.copies_in;
    return CUDA_SUCCESS;
  };
  table.cuMemcpyDtoHAsync_v2 = [](void*, CUdeviceptr, size_t, CUstream) { return CUDA_SUCCESS; };
  table.cuMemcpyDtoH_v2 = [](void*, CUdeviceptr, size_t) {
    ++BusyDevice::get().blocking_copies;
    return CUDA_SUCCESS;
  };
  return table;
}

}  // namespace vgpu::worker
