#include "softgpu/driver/image_source.hpp"

#include "cudaabi/image.hpp"
#include "softgpu/driver/driver.hpp"
#include "softgpu/image/image.hpp"

namespace softgpu {

tl::expected<std::string, ModuleError> ptx_of_image(const void* image) {
  const auto extent = cudaabi::image_extent(image);
  if (!extent) return tl::unexpected(ModuleError{CUDA_ERROR_INVALID_IMAGE, "not a known kind of image"});
  auto ptx = ptx_from_image({extent->data, extent->size});
  if (ptx) return std::move(*ptx);
  log_line("image refused: " + ptx.error().reason);
  const bool none = ptx.error().kind == ImageError::Kind::no_binary;
  return tl::unexpected(ModuleError{none ? CUDA_ERROR_NO_BINARY_FOR_GPU : CUDA_ERROR_INVALID_IMAGE,
                                    std::move(ptx.error().reason)});
}

}  // namespace softgpu
