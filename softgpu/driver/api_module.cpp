// cuModule*, cuLibrary*, cuFunc* and cuKernel*: loading code and asking about it.
#include <algorithm>
#include <fstream>
#include <iterator>

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/device.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/jit_log.hpp"
#include "softgpu/driver/library.hpp"
#include "softgpu/driver/module.hpp"

using namespace softgpu;

namespace {

CUresult load(const void* image, const Context* context, const JitLog& log,
              std::shared_ptr<LoadedModule>& loaded) {
  if (image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  auto module = load_image(image, context);
  if (!module) {
    log.write(module.error().log);
    return module.error().result;
  }
  log.write("");
  loaded = std::move(*module);
  return CUDA_SUCCESS;
}

CUresult load_module(CUmodule* out, const void* image, const JitLog& log) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    std::shared_ptr<LoadedModule> module;
    if (const CUresult error = load(image, &context, log, module); error != CUDA_SUCCESS) return error;
    *out = reinterpret_cast<CUmodule>(driver.modules.add(std::move(module)));
    return CUDA_SUCCESS;
  });
}

CUresult load_library(CUlibrary* out, const void* image, const JitLog& log) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    std::shared_ptr<LoadedModule> library;
    if (const CUresult error = load(image, nullptr, log, library); error != CUDA_SUCCESS) return error;
    *out = reinterpret_cast<CUlibrary>(driver.libraries.add(std::move(library)));
    return CUDA_SUCCESS;
  });
}

// A file's bytes and a NUL, so that PTX text ends.
bool read_file(const char* path, std::vector<char>& bytes) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return false;
  bytes.assign(std::istreambuf_iterator<char>(file), {});
  bytes.push_back('\0');
  return true;
}

// Modules and the modules of libraries answer the same calls.
std::shared_ptr<LoadedModule> find_module(Driver& driver, CUmodule handle) {
  if (auto module = driver.modules.find(handle); module != nullptr) return module;
  if (auto module = driver.library_modules.find(handle); module != nullptr) return module;
  return driver.libraries.find(handle);
}

CUresult variable(const LoadedModule& module, const char* name, CUdeviceptr* address, std::size_t* bytes) {
  if (name == nullptr || (address == nullptr && bytes == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  const GlobalVariable* const found = module.code->find_variable(name);
  if (found == nullptr) return CUDA_ERROR_NOT_FOUND;
  if (address != nullptr) *address = found->address;
  if (bytes != nullptr) *bytes = found->size;
  return CUDA_SUCCESS;
}

template <class Handle>
CUresult enumerate(const LoadedModule& module, Handle* handles, unsigned count) {
  if (handles == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < count; ++i) {
    handles[i] = i < module.functions.size() ? reinterpret_cast<Handle>(module.functions[i].get()) : nullptr;
  }
  return CUDA_SUCCESS;
}

template <class Handle, class Body>
CUresult on_function(Handle handle, Body&& body) noexcept {
  return with_driver([&](Driver& driver) -> CUresult {
    std::shared_ptr<Function> function = driver.functions.find(handle);
    if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if constexpr (std::is_same_v<Handle, CUfunction>) {
      // A kernel may stand for a function: the current context's.
      const CUresult error = bind_library_kernel(function, current_context());
      if (error != CUDA_SUCCESS) return error;
    }
    return body(*function);
  });
}

// Runs body(Function&) with what a kernel is on a device.
template <class Body>
CUresult on_kernel(CUkernel handle, CUdevice device, Body&& body) noexcept {
  return with_device(device, [&](Driver& driver, Device&) -> CUresult {
    std::shared_ptr<Function> function = driver.functions.find(handle);
    if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (const CUresult error = bind_to(function, device); error != CUDA_SUCCESS) return error;
    return body(*function);
  });
}

template <class Handle>
CUresult param_info(Handle handle, std::size_t index, std::size_t* offset, std::size_t* size) {
  return on_function(handle, [&](Function& function) -> CUresult {
    const auto params = kernel_params(*function.kernel);
    if (offset == nullptr || index >= params.size()) return CUDA_ERROR_INVALID_VALUE;
    *offset = params[index].offset;
    if (size != nullptr) *size = params[index].size;
    return CUDA_SUCCESS;
  });
}

template <class Handle>
CUresult function_name(const char** name, Handle handle) {
  return on_function(handle, [&](Function& function) -> CUresult {
    if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *name = function.name.c_str();
    return CUDA_SUCCESS;
  });
}

CUresult get_attribute(const Function& function, CUfunction_attribute attribute, int* value) {
  return value == nullptr ? CUDA_ERROR_INVALID_VALUE : function_attribute(function, attribute, *value);
}

CUresult set_cache_config(Function& function, CUfunc_cache config) {
  if (config < 0 || config > CU_FUNC_CACHE_PREFER_EQUAL) return CUDA_ERROR_INVALID_VALUE;
  function.cache_config.store(config);
  return CUDA_SUCCESS;
}

}  // namespace

SOFTGPU_API cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned count, CUjit_option* options,
                               void** values) {
  return load_module(module, image, JitLog(count, options, values));
}

SOFTGPU_API cuModuleLoadData(CUmodule* module, const void* image) {
  return load_module(module, image, JitLog(0, nullptr, nullptr));
}

SOFTGPU_API cuModuleLoadFatBinary(CUmodule* module, const void* image) {
  return load_module(module, image, JitLog(0, nullptr, nullptr));
}

SOFTGPU_API cuModuleLoad(CUmodule* module, const char* path) {
  return guarded([&]() -> CUresult {
    std::vector<char> bytes;
    if (path == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (!read_file(path, bytes)) return CUDA_ERROR_FILE_NOT_FOUND;
    return load_module(module, bytes.data(), JitLog(0, nullptr, nullptr));
  });
}

SOFTGPU_API cuModuleUnload(CUmodule handle) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if (const CUresult error = refuse_in_capture(); error != CUDA_SUCCESS) return error;
    const auto module = driver.modules.remove(handle);
    if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    context.synchronize();
    forget_functions(*module);
    return context.error();
  });
}

SOFTGPU_API cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) {
  return with_driver([&](Driver&) -> CUresult {
    if (mode == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *mode = CU_MODULE_LAZY_LOADING;  // a kernel's body is decoded at its first launch
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuModuleGetFunction(CUfunction* out, CUmodule handle, const char* name) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (out == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const auto module = find_module(driver, handle);
    if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    const auto function = module->find(name);
    if (function == nullptr) return CUDA_ERROR_NOT_FOUND;
    *out = function->handle();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuModuleGetFunctionCount(unsigned* count, CUmodule handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto module = find_module(driver, handle);
    if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *count = static_cast<unsigned>(module->functions.size());
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuModuleEnumerateFunctions(CUfunction* functions, unsigned count, CUmodule handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto module = find_module(driver, handle);
    if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    return enumerate(*module, functions, count);
  });
}

SOFTGPU_API cuModuleGetGlobal_v2(CUdeviceptr* address, std::size_t* bytes, CUmodule handle,
                                 const char* name) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto module = find_module(driver, handle);
    if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    return variable(*module, name, address, bytes);
  });
}

SOFTGPU_API cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option* options, void** values,
                              unsigned count, CUlibraryOption*, void**, unsigned) {
  return load_library(library, code, JitLog(count, options, values));
}

SOFTGPU_API cuLibraryLoadFromFile(CUlibrary* library, const char* path, CUjit_option* options, void** values,
                                  unsigned count, CUlibraryOption*, void**, unsigned) {
  return guarded([&]() -> CUresult {
    std::vector<char> bytes;
    if (path == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (!read_file(path, bytes)) return CUDA_ERROR_FILE_NOT_FOUND;
    return load_library(library, bytes.data(), JitLog(count, options, values));
  });
}

SOFTGPU_API cuLibraryUnload(CUlibrary handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto library = driver.libraries.remove(handle);
    if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    // Its variables must not go while a kernel may use them.
    if (Context* const context = current_context(); context != nullptr) context->synchronize();
    for (const auto& device : driver.devices) device->primary.synchronize();
    forget_functions(*library);
    forget_modules(*library);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuLibraryGetKernel(CUkernel* out, CUlibrary handle, const char* name) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (out == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const auto library = driver.libraries.find(handle);
    if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    const auto function = library->find(name);
    if (function == nullptr) return CUDA_ERROR_NOT_FOUND;
    *out = reinterpret_cast<CUkernel>(function.get());
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuLibraryGetKernelCount(unsigned* count, CUlibrary handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto library = driver.libraries.find(handle);
    if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *count = static_cast<unsigned>(library->functions.size());
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuLibraryEnumerateKernels(CUkernel* kernels, unsigned count, CUlibrary handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto library = driver.libraries.find(handle);
    if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    return enumerate(*library, kernels, count);
  });
}

SOFTGPU_API cuLibraryGetModule(CUmodule* out, CUlibrary handle) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const auto library = driver.libraries.find(handle);
    if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    std::shared_ptr<LoadedModule> module;
    if (const CUresult error = module_on(library, context.device, module); error != CUDA_SUCCESS)
      return error;
    *out = reinterpret_cast<CUmodule>(module.get());
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuLibraryGetGlobal(CUdeviceptr* address, std::size_t* bytes, CUlibrary handle, const char* name) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    const auto library = driver.libraries.find(handle);
    if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    std::shared_ptr<LoadedModule> module;
    if (const CUresult error = module_on(library, context.device, module); error != CUDA_SUCCESS)
      return error;
    return variable(*module, name, address, bytes);
  });
}

// A managed variable is an ordinary one here: the host can touch all of the device's memory. It belongs to no
// context, and the runtime asks for it before there is one.
SOFTGPU_API cuLibraryGetManaged(CUdeviceptr* address, std::size_t* bytes, CUlibrary handle,
                                const char* name) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto library = driver.libraries.find(handle);
    if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    return variable(*library, name, address, bytes);
  });
}

SOFTGPU_API cuKernelGetFunction(CUfunction* out, CUkernel kernel) {
  return with_driver([&](Driver& driver) -> CUresult {
    std::shared_ptr<Function> function = driver.functions.find(kernel);
    if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const Context* const context = current_context();
    if (context == nullptr && function->device == any_device) return CUDA_ERROR_INVALID_CONTEXT;
    if (const CUresult error = bind_library_kernel(function, context); error != CUDA_SUCCESS) return error;
    *out = function->handle();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuKernelGetLibrary(CUlibrary* out, CUkernel kernel) {
  return on_function(kernel, [&](Function& function) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const auto module = function.keep_module();
    if (module == nullptr || module->context != nullptr) return CUDA_ERROR_INVALID_HANDLE;
    const auto library = module->library.lock();
    *out = reinterpret_cast<CUlibrary>(library != nullptr ? library.get() : module.get());
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuFuncGetModule(CUmodule* out, CUfunction handle) {
  return on_function(handle, [&](Function& function) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const auto module = function.keep_module();
    if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    *out = reinterpret_cast<CUmodule>(module.get());
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuFuncGetName(const char** name, CUfunction handle) {
  return function_name(name, handle);
}
SOFTGPU_API cuKernelGetName(const char** name, CUkernel handle) {
  return function_name(name, handle);
}

SOFTGPU_API cuFuncGetParamInfo(CUfunction handle, std::size_t index, std::size_t* offset, std::size_t* size) {
  return param_info(handle, index, offset, size);
}

SOFTGPU_API cuKernelGetParamInfo(CUkernel handle, std::size_t index, std::size_t* offset, std::size_t* size) {
  return param_info(handle, index, offset, size);
}

SOFTGPU_API cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction handle) {
  return on_function(handle,
                     [&](const Function& function) { return get_attribute(function, attribute, value); });
}

SOFTGPU_API cuKernelGetAttribute(int* value, CUfunction_attribute attribute, CUkernel handle,
                                 CUdevice device) {
  return on_kernel(handle, device,
                   [&](const Function& function) { return get_attribute(function, attribute, value); });
}

SOFTGPU_API cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
  return on_function(handle,
                     [&](Function& function) { return set_function_attribute(function, attribute, value); });
}

SOFTGPU_API cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel handle,
                                 CUdevice device) {
  return on_kernel(handle, device,
                   [&](Function& function) { return set_function_attribute(function, attribute, value); });
}

SOFTGPU_API cuFuncSetCacheConfig(CUfunction handle, CUfunc_cache config) {
  return on_function(handle, [&](Function& function) { return set_cache_config(function, config); });
}

SOFTGPU_API cuKernelSetCacheConfig(CUkernel handle, CUfunc_cache config, CUdevice device) {
  return on_kernel(handle, device, [&](Function& function) { return set_cache_config(function, config); });
}

SOFTGPU_API cuFuncSetSharedMemConfig(CUfunction handle, CUsharedconfig config) {
  return on_function(handle, [&](Function&) -> CUresult {
    return config < 0 || config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE ? CUDA_ERROR_INVALID_VALUE
                                                                            : CUDA_SUCCESS;
  });
}

SOFTGPU_API cuFuncIsLoaded(CUfunctionLoadingState* state, CUfunction handle) {
  return on_function(handle, [&](Function& function) -> CUresult {
    if (state == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *state = function.prepared.load() ? CU_FUNCTION_LOADING_STATE_LOADED : CU_FUNCTION_LOADING_STATE_UNLOADED;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuFuncLoad(CUfunction handle) {
  return on_function(handle, [&](Function& function) -> CUresult {
    if (!prepare(*function.kernel)) return CUDA_ERROR_NOT_SUPPORTED;
    function.prepared.store(true);
    return CUDA_SUCCESS;
  });
}
