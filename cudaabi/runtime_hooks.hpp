// What a library of ours must tell cudaabi so that NVIDIA's runtime can start on it: contexts, module loading
// and the identity of its devices. libclient/cuda and softgpu/driver each implement it once.
#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>
#include <vector>

namespace cudaabi {

/// A device as it identifies itself everywhere: UUID and PCI address.
struct DeviceIdentity {
  std::array<unsigned char, 16> uuid{};
  std::int32_t pci_domain = 0, pci_bus = 0, pci_device = 0;
};

/// A table of the library's own behind cuGetExportTable.
struct PrivateTable {
  std::array<unsigned char, 16> uuid{};
  const void* table = nullptr;
};

/// Called from any thread, before and after cuInit. Implementations report CUDA errors and never throw.
class RuntimeHooks {
 public:
  virtual ~RuntimeHooks() = default;

  /// CUDA_VERSION form (13000), the same as cuDriverGetVersion answers.
  virtual int driver_version() = 0;
  /// All devices in ordinal order; empty before a successful cuInit.
  virtual std::vector<DeviceIdentity> devices() = 0;
  /// The calling thread's current context, nullptr for none.
  virtual CUcontext current_context() = 0;
  /// The device's primary context, without retaining or activating it; its handle is stable over the
  /// process's life.
  virtual CUresult primary_context(CUcontext* context, CUdevice device) = 0;
  /// A number for the context that is never used twice (cuCtxGetId); `context` null = current.
  virtual CUresult context_id(CUcontext context, std::uint64_t* id) = 0;
  /// A number for the stream that is never used twice (cuStreamGetId); `context` null = current.
  virtual CUresult stream_id(CUcontext context, CUstream stream, std::uint64_t* id) = 0;
  /// Loads a module from a fatbin wrapper or a bare fatbin (image.hpp finds its extent), as cuModuleLoadData
  /// does.
  virtual CUresult load_module(CUmodule* module, const void* image) = 0;
  /// All kernels of a module, in the order of cuModuleEnumerateFunctions.
  virtual CUresult module_functions(CUmodule module, std::vector<CUfunction>& functions) = 0;
  /// Tables of the library's own; may be empty.
  virtual std::vector<PrivateTable> private_tables() { return {}; }
};

/// Sets the one implementation of this library; call it before anything else can be called (a static
/// initialiser that only stores the pointer is fine). The object must live as long as the process.
void install_runtime_hooks(RuntimeHooks& hooks);

/// The installed implementation, nullptr before.
RuntimeHooks* runtime_hooks();

}  // namespace cudaabi
