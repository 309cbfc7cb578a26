// Loaded modules and libraries, and their kernels.
#pragma once

#include <cuda.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "softgpu/driver/context.hpp"
#include "softgpu/engine.hpp"

namespace softgpu {

struct LibraryModules;
struct LoadedModule;

/// Of a library's kernel where there are several devices: which one it runs on is decided by its use.
inline constexpr int any_device = -1;

/// A kernel as programs hold it. Where there is one device, CUfunction and CUkernel are the same object.
struct Function {
  std::shared_ptr<LoadedModule> keep_module() const { return module.lock(); }

  std::weak_ptr<LoadedModule> module;  ///< weak: the module owns its functions
  /// Keeps the module's code and variables while work that uses them is queued.
  std::shared_ptr<const Module> code;
  const Kernel* kernel = nullptr;
  int device = 0;         ///< or any_device
  std::size_t index = 0;  ///< in its module
  std::string name;
  std::atomic<int> dynamic_shared_limit{0};
  std::atomic<int> carveout{-1};
  std::atomic<int> cache_config{0};
  std::atomic<bool> prepared{false};

  CUfunction handle() { return reinterpret_cast<CUfunction>(this); }
};

/// Behind CUmodule and CUlibrary. Immutable after loading.
struct LoadedModule {
  LoadedModule();
  ~LoadedModule();
  LoadedModule(const LoadedModule&) = delete;
  LoadedModule& operator=(const LoadedModule&) = delete;

  const Context* context = nullptr;  ///< null for a library: it belongs to no context
  std::shared_ptr<const Module> code;
  std::vector<std::shared_ptr<Function>> functions;
  std::unique_ptr<LibraryModules> modules;  ///< of a library, where there are several devices
  std::weak_ptr<LoadedModule> library;      ///< of such a module
  /// Gives a library's variables the values that they had when it was loaded. Nothing may use them meanwhile.
  std::function<void()> restore_variables;

  const std::vector<std::shared_ptr<Function>>& all_functions() const { return functions; }
  std::shared_ptr<Function> find(std::string_view name) const;
};

/// Why an image was not loaded; `log` is for the JIT error log buffer.
struct ModuleError {
  CUresult result = CUDA_ERROR_INVALID_IMAGE;
  std::string log;
};

/// Loads an image as cuModuleLoadData gets it; registers its functions. `context` owns it (null: nobody).
tl::expected<std::shared_ptr<LoadedModule>, ModuleError> load_image(const void* image,
                                                                    const Context* context);
/// The same for PTX, on a device; managed variables are those of `original`, if there is one.
tl::expected<std::shared_ptr<LoadedModule>, ModuleError> load_text(
    std::string_view ptx, const Context* context, int device,
    const std::shared_ptr<const Module>& original = nullptr);
/// A module of code that is loaded; registers its functions.
std::shared_ptr<LoadedModule> module_of(std::shared_ptr<const Module> code, const Context* context,
                                        int device);
/// Forgets the functions of a module that is unloaded.
void forget_functions(const LoadedModule& module);

/// Checks grid, block and shared memory as the real driver does, packs the parameters; `result` is what the
/// launch call returns when it fails. Exactly one of `params` and `extra` is used, as in cuLaunchKernel.
struct LaunchRequest {
  std::shared_ptr<Function> function;
  Dim3 grid, block;
  std::uint32_t dynamic_shared = 0;
  bool cooperative = false;
  void** params = nullptr;
  void** extra = nullptr;
};
CUresult make_kernel_work(const LaunchRequest& request, KernelWork& work);

/// Blocks of this size that fit on one multiprocessor.
int resident_blocks(const Function& function, int block_size, std::size_t dynamic_shared);
/// cuFuncGetAttribute and cuKernelGetAttribute.
CUresult function_attribute(const Function& function, CUfunction_attribute attribute, int& value);
CUresult set_function_attribute(Function& function, CUfunction_attribute attribute, int value);

}  // namespace softgpu
