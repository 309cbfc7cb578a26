// Any bytes as an image: a text or a refusal, never more.
#include "softgpu/image/image.hpp"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto text = softgpu::ptx_from_image(std::as_bytes(std::span(data, size)));
  if (text && text->size() > softgpu::max_ptx_bytes) __builtin_trap();
  return 0;
}
