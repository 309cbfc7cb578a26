// What NVIDIA's runtime asks of this library beside the public API, and the private table for vgpud's worker.
#include <cstring>

#include "cudaabi/blas_extension.hpp"
#include "cudaabi/runtime_hooks.hpp"
#include "softgpu/blas/execute.hpp"
#include "softgpu/driver/api.hpp"
#include "softgpu/driver/device.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/meter.hpp"

namespace softgpu {
namespace {

CUresult busy_ns(std::uint64_t* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Driver& driver = Driver::get();
  *value = driver.executor.total_busy_ns() + driver.blas_ns.load(std::memory_order_relaxed);
  return CUDA_SUCCESS;
}

CUresult lane_instructions(std::uint64_t* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *value = Driver::get().executor.total_lane_instructions();
  return CUDA_SUCCESS;
}

CUresult threads(unsigned* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *value = Driver::get().executor.threads();
  return CUDA_SUCCESS;
}

CUresult printf_target(void (*target)(void*, const char*, std::size_t), void* user) {
  set_printf_target(target, user);
  return CUDA_SUCCESS;
}

CUresult device_busy_ns(CUdevice device, std::uint64_t* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Driver& driver = Driver::get();
  if (!driver.has_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  *value = driver.device(device).busy_ns.load(std::memory_order_relaxed);
  return CUDA_SUCCESS;
}

constexpr MeterTable meter{sizeof(MeterTable), busy_ns,       lane_instructions, threads,
                           printf_target,      device_busy_ns};

CUresult enqueue_blas(CUstream handle, const cudaabi::BlasDescriptor* descriptor, std::size_t bytes) {
  return on_stream(handle, [&](Driver&, Context&, Stream& stream) -> CUresult {
    if (descriptor == nullptr || bytes != sizeof *descriptor) return CUDA_ERROR_INVALID_VALUE;
    switch (cudaabi::check_blas(*descriptor)) {
      case cudaabi::BlasCheck::ok:
        break;
      case cudaabi::BlasCheck::invalid:
        return CUDA_ERROR_INVALID_VALUE;
      case cudaabi::BlasCheck::unsupported:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    if (!blas::available()) {
      log_line("matrix operations need libopenblas.so.0");
      return CUDA_ERROR_NOT_SUPPORTED;
    }
    return enqueue(stream, BlasWork{*descriptor});
  });
}

constexpr cudaabi::BlasTable blas_table{sizeof(cudaabi::BlasTable), enqueue_blas};

class Hooks final : public cudaabi::RuntimeHooks {
 public:
  int driver_version() override { return softgpu::driver_version; }

  std::vector<cudaabi::DeviceIdentity> devices() override {
    if (require_driver() != CUDA_SUCCESS) return {};
    std::vector<cudaabi::DeviceIdentity> all;
    for (const auto& device : Driver::get().devices) {
      const int ordinal = device->ordinal;
      all.push_back({device_uuid(ordinal), pci_domain, pci_bus(ordinal), pci_device});
    }
    return all;
  }

  CUcontext current_context() override {
    Context* const context = softgpu::current_context();
    return context != nullptr ? context->handle() : nullptr;
  }

  CUresult primary_context(CUcontext* context, CUdevice ordinal) override {
    return with_device(ordinal, [&](Driver&, Device& device) -> CUresult {
      *context = device.primary.handle();
      return CUDA_SUCCESS;
    });
  }

  CUresult context_id(CUcontext context, std::uint64_t* id) override {
    unsigned long long value = 0;
    const CUresult result = cuCtxGetId(context, &value);
    if (result == CUDA_SUCCESS) *id = value;
    return result;
  }

  CUresult stream_id(CUcontext, CUstream stream, std::uint64_t* id) override {
    unsigned long long value = 0;
    const CUresult result = cuStreamGetId(stream, &value);
    if (result == CUDA_SUCCESS) *id = value;
    return result;
  }

  CUresult load_module(CUmodule* module, const void* image) override {
    return cuModuleLoadData(module, image);
  }

  CUresult module_functions(CUmodule module, std::vector<CUfunction>& functions) override {
    unsigned count = 0;
    if (const CUresult result = cuModuleGetFunctionCount(&count, module); result != CUDA_SUCCESS)
      return result;
    functions.resize(count);
    return count != 0 ? cuModuleEnumerateFunctions(functions.data(), count, module) : CUDA_SUCCESS;
  }

  std::vector<cudaabi::PrivateTable> private_tables() override {
    cudaabi::PrivateTable table;
    static_assert(sizeof table.uuid == sizeof meter_uuid - 1);
    std::memcpy(table.uuid.data(), meter_uuid, sizeof table.uuid);
    table.table = &meter;
    return {table, {cudaabi::blas_table_uuid, &blas_table}};
  }
};

const bool installed = [] {
  static auto* const hooks = new Hooks;
  cudaabi::install_runtime_hooks(*hooks);
  return true;
}();

}  // namespace
}  // namespace softgpu
