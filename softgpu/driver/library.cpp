#include "softgpu/driver/library.hpp"

#include "softgpu/driver/driver.hpp"

namespace softgpu {
namespace {

tl::expected<std::shared_ptr<LoadedModule>, ModuleError> make_module(
    const std::shared_ptr<LoadedModule>& library, int device) {
  // The first device has the library's own code, which is there already.
  if (device == 0) return module_of(library->code, nullptr, device);
  return load_text(library->modules->ptx, nullptr, device, library->code);
}

}  // namespace

CUresult module_on(const std::shared_ptr<LoadedModule>& library, int device,
                   std::shared_ptr<LoadedModule>& module) {
  if (library->modules == nullptr) {
    module = library;
    return CUDA_SUCCESS;
  }
  LibraryModules& modules = *library->modules;
  const std::unique_lock lock(modules.mutex);
  auto& place = modules.of[static_cast<std::size_t>(device)];
  if (place == nullptr) {
    auto made = make_module(library, device);
    if (!made) return made.error().result;
    (*made)->library = library;
    Driver::get().library_modules.add(*made);
    place = std::move(*made);
  }
  module = place;
  return CUDA_SUCCESS;
}

CUresult bind_to(std::shared_ptr<Function>& function, int device) {
  if (function->device == device) return CUDA_SUCCESS;
  if (function->device != any_device) return CUDA_ERROR_INVALID_HANDLE;
  const auto library = function->keep_module();
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  std::shared_ptr<LoadedModule> module;
  if (const CUresult error = module_on(library, device, module); error != CUDA_SUCCESS) return error;
  function = module->functions[function->index];
  return CUDA_SUCCESS;
}

CUresult bind_library_kernel(std::shared_ptr<Function>& function, const Context* context) {
  if (function->device != any_device || context == nullptr) return CUDA_SUCCESS;
  return bind_to(function, context->device);
}

void renew_libraries(int device) {
  for (const auto& library : Driver::get().libraries.all()) {
    if (library->modules == nullptr || device == 0) {
      library->restore_variables();
      continue;
    }
    const std::unique_lock lock(library->modules->mutex);
    const auto& module = library->modules->of[static_cast<std::size_t>(device)];
    if (module != nullptr) module->restore_variables();
  }
}

void forget_modules(const LoadedModule& library) {
  if (library.modules == nullptr) return;
  const std::unique_lock lock(library.modules->mutex);
  for (auto& module : library.modules->of) {
    if (module == nullptr) continue;
    forget_functions(*module);
    Driver::get().library_modules.remove(module.get());
  }
}

}  // namespace softgpu
