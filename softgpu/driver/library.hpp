// What a library is where there are several devices: for each of them a module, with variables of its own,
// that is made when something on that device first needs it. Managed variables are the library's: there is
// one of each. Where there is one device, a library is its module, and nothing of this is used.
#pragma once

#include <cuda.h>

#include <array>
#include <memory>
#include <mutex>
#include <string>

#include "softgpu/driver/module.hpp"
#include "softgpu/memory/device_memory.hpp"

namespace softgpu {

/// The modules of a library, by device; null until they are made.
struct LibraryModules {
  explicit LibraryModules(std::string text) : ptx(std::move(text)) {}

  const std::string ptx;
  std::mutex mutex;  ///< guards `of`
  std::array<std::shared_ptr<LoadedModule>, max_devices> of;
};

/// The library's module on a device; an error when it cannot be made.
CUresult module_on(const std::shared_ptr<LoadedModule>& library, int device,
                   std::shared_ptr<LoadedModule>& module);
/// Makes `function` the one to run on a device. A library's kernel has one for each, any other function is of
/// its own device only: CUDA_ERROR_INVALID_HANDLE.
CUresult bind_to(std::shared_ptr<Function>& function, int device);
/// The same for the context's device; without a context, and where it is no library's kernel, it stays.
CUresult bind_library_kernel(std::shared_ptr<Function>& function, const Context* context);
/// Gives the variables that libraries have on a device their first values, as a new context has them. No work
/// of the device's is under way.
void renew_libraries(int device);
/// Forgets a library's modules that is unloaded.
void forget_modules(const LoadedModule& library);

}  // namespace softgpu
