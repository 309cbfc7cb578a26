#include "softgpu/blas/openblas.hpp"

#include <dlfcn.h>

#include <optional>

namespace softgpu::blas {
namespace {

template <class Function>
bool resolve(void* library, const char* name, Function& out) {
  out = reinterpret_cast<Function>(::dlsym(library, name));
  return out != nullptr;
}

std::optional<OpenBlas> load() {
  void* library = ::dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return std::nullopt;
  OpenBlas functions;
  if (resolve(library, "cblas_sgemm", functions.sgemm) && resolve(library, "cblas_dgemm", functions.dgemm) &&
      resolve(library, "cblas_strsm", functions.strsm) && resolve(library, "cblas_dtrsm", functions.dtrsm)) {
    return functions;
  }
  return std::nullopt;
}

}  // namespace

const OpenBlas* openblas() {
  static const std::optional<OpenBlas> library = load();
  return library ? &*library : nullptr;
}

}  // namespace softgpu::blas
