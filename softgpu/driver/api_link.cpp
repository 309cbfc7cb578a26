// cuLink*: PTX modules become one by being written one after the other, since PTX resolves names over a whole
// text; the engine then finds what is missing or defined twice. Machine code cannot be linked here.
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/image_source.hpp"
#include "softgpu/driver/jit_log.hpp"
#include "softgpu/driver/linker.hpp"
#include "softgpu/driver/module.hpp"

using namespace softgpu;

namespace {

template <class Body>
CUresult on_linker(CUlinkState handle, Body&& body) noexcept {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto linker = driver.linkers.find(handle);
    if (linker == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    return body(*linker);
  });
}

CUresult add(CUlinkState handle, CUjitInputType type, const void* data, std::size_t size) {
  return on_linker(handle, [&](Linker& linker) -> CUresult {
    if (data == nullptr || size == 0) return CUDA_ERROR_INVALID_VALUE;
    std::string text;
    switch (static_cast<int>(type)) {
      case CU_JIT_INPUT_PTX:
        text.assign(static_cast<const char*>(data), strnlen(static_cast<const char*>(data), size));
        break;
      case CU_JIT_INPUT_FATBINARY: {
        auto ptx = ptx_of_image(data);
        if (!ptx) {
          linker.log.write(ptx.error().log);
          return ptx.error().result;
        }
        text = std::move(*ptx);
        break;
      }
      case CU_JIT_INPUT_CUBIN:
      case CU_JIT_INPUT_OBJECT:
      case CU_JIT_INPUT_LIBRARY:
      case CU_JIT_INPUT_NVVM:
        log_line("machine code cannot be linked");
        linker.log.write("the software GPU links PTX only");
        return CUDA_ERROR_NOT_SUPPORTED;
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    while (!text.empty() && text.back() == '\0') text.pop_back();
    linker.ptx += text;
    linker.ptx += '\n';
    return CUDA_SUCCESS;
  });
}

// Loads the text as a program would, so that errors come out here.
CUresult check(const Linker& linker) {
  auto module = load_image(linker.ptx.c_str(), nullptr);
  if (!module) {
    linker.log.write(module.error().log);
    return module.error().result;
  }
  std::string missing;
  for (const auto& function : (*module)->functions) {
    const auto ready = prepare(*function->kernel);
    if (!ready)
      missing = function->name + ", line " + std::to_string(ready.error().line) + ": " + ready.error().reason;
  }
  forget_functions(**module);
  linker.log.write(missing);
  return missing.empty() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
}

}  // namespace

SOFTGPU_API cuLinkCreate_v2(unsigned count, CUjit_option* options, void** values, CUlinkState* out) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    if (out == nullptr || (count != 0 && (options == nullptr || values == nullptr)))
      return CUDA_ERROR_INVALID_VALUE;
    auto linker = std::make_shared<Linker>(Linker{JitLog(count, options, values), {}});
    *out = reinterpret_cast<CUlinkState>(driver.linkers.add(std::move(linker)));
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void* data, std::size_t size,
                             const char*, unsigned, CUjit_option*, void**) {
  return add(state, type, data, size);
}

SOFTGPU_API cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char* path, unsigned,
                             CUjit_option*, void**) {
  return guarded([&]() -> CUresult {
    if (path == nullptr) return CUDA_ERROR_INVALID_VALUE;
    std::ifstream file(path, std::ios::binary);
    if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
    std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    return add(state, type, bytes.data(), bytes.size());
  });
}

SOFTGPU_API cuLinkComplete(CUlinkState state, void** image, std::size_t* size) {
  return on_linker(state, [&](Linker& linker) -> CUresult {
    if (linker.ptx.empty()) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult error = check(linker); error != CUDA_SUCCESS) return error;
    if (image != nullptr) *image = linker.ptx.data();
    if (size != nullptr) *size = linker.ptx.size() + 1;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuLinkDestroy(CUlinkState state) {
  return with_driver([&](Driver& driver) -> CUresult {
    return driver.linkers.remove(state) != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  });
}
