// What NVIDIA's runtime asks of this library beyond the driver API (cudaabi/runtime_hooks.hpp).
#include <cstring>

#include "cudaabi/blas_extension.hpp"
#include "cudaabi/runtime_hooks.hpp"
#include "libclient/cuda/images.hpp"
#include "libclient/cuda/stub_runtime.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {

CUresult stream_id_of(CUstream stream, std::uint64_t* id);

namespace {

// The way of our libcublas to the device. A descriptor goes along as it is; the worker judges it.
CUresult enqueue_blas(CUstream stream, const cudaabi::BlasDescriptor* descriptor, std::size_t bytes) {
  if (descriptor == nullptr || bytes != sizeof *descriptor) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  record::extension_blas record;
  record.stream = call.stream(stream, false);
  return call.post(record, {reinterpret_cast<const std::byte*>(descriptor), bytes});
}

constexpr cudaabi::BlasTable blas_table{sizeof(cudaabi::BlasTable), enqueue_blas};

class Hooks final : public cudaabi::RuntimeHooks {
 public:
  int driver_version() override { return client::driver_version().value_or(CUDA_VERSION); }

  std::vector<cudaabi::DeviceIdentity> devices() override {
    const Process* ready = process();
    if (ready == nullptr) return {};
    std::vector<cudaabi::DeviceIdentity> identities;
    for (const DeviceReport& report : ready->connection->devices()) {
      cudaabi::DeviceIdentity& identity = identities.emplace_back();
      static_assert(sizeof identity.uuid == sizeof report.uuid);
      std::memcpy(identity.uuid.data(), report.uuid, sizeof report.uuid);
      identity.pci_domain = report.pci_domain;
      identity.pci_bus = report.pci_bus;
      identity.pci_device = report.pci_device;
    }
    return identities;
  }

  CUcontext current_context() override {
    const Context* context = process() != nullptr ? this_thread().current : nullptr;
    return context != nullptr ? context->cu() : nullptr;
  }

  CUresult primary_context(CUcontext* context, CUdevice device) override {
    Process* ready = process();
    if (ready == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
    if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (!ready->has_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *context = ready->contexts.primary(device).cu();
    return CUDA_SUCCESS;
  }

  CUresult context_id(CUcontext context, std::uint64_t* id) override {
    unsigned long long value = 0;
    const CUresult result = cuCtxGetId(context, &value);
    if (result == CUDA_SUCCESS) *id = value;
    return result;
  }

  CUresult stream_id(CUcontext, CUstream stream, std::uint64_t* id) override {
    return stream_id_of(stream, id);
  }

  CUresult load_module(CUmodule* module, const void* image) override {
    Call call;
    if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
    return client::load_module(call, module, image, {});
  }

  CUresult module_functions(CUmodule module, std::vector<CUfunction>& functions) override {
    return client::module_functions(module, functions);
  }

  std::vector<cudaabi::PrivateTable> private_tables() override {
    return {{cudaabi::blas_table_uuid, &blas_table}};
  }
};

// Only stores a pointer: nothing happens before the program calls.
const bool installed = [] {
  static auto* const hooks = new Hooks;
  cudaabi::install_runtime_hooks(*hooks);
  return true;
}();

}  // namespace
}  // namespace vgpu::client
