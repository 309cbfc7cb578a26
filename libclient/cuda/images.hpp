// Modules, libraries and the functions in them: loading images, finding functions with their parameter layout
// and attributes. Never: interprets an image; that is the driver's work.
#pragma once

#include <cuda.h>

#include <vector>

#include "libclient/cuda/jit_options.hpp"
#include "libclient/cuda/stub_runtime.hpp"

namespace vgpu::client {

/// Loads `image` (fatbin wrapper, fatbin, ELF or PTX text) into the current context.
CUresult load_module(Call& call, CUmodule* module, const void* image, const JitOptions& options);

/// All kernels of a module, in the driver's order.
CUresult module_functions(CUmodule module, std::vector<CUfunction>& functions);

/// The function behind a CUfunction or a CUkernel used as one; nullptr if there is none.
inline Function* find_function(const Process& process, std::uint64_t handle) {
  if (Handle::kind(handle) == HandleKind::kernel) return process.kernels.find(handle);
  return process.functions.find(handle);
}

/// An attribute of a function or kernel: cached, or asked for.
CUresult function_attribute(Call& call, Function& function, CUfunction_attribute attribute, int& value);

}  // namespace vgpu::client
