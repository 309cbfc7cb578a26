// From the bytes of an image (fatbin, PTX text, machine code) to the PTX text that this GPU runs.
//
// Chooses among a fatbin's entries and decompresses; never parses PTX. Safe on any bytes: nothing is read
// outside them, and a text grows to at most max_ptx_bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tl/expected.hpp>

namespace softgpu {

struct ImageError {
  enum class Kind : std::uint8_t {
    no_binary,  ///< a sound image without PTX for this GPU: machine code, newer architectures, nothing at all
    invalid,    ///< no image, or a damaged one
  };
  Kind kind = Kind::invalid;
  std::string reason;
};

/// The newest architecture whose PTX this GPU runs (10 * major + minor).
inline constexpr std::uint32_t newest_ptx_arch = 75;
/// Longer texts are refused: no compiler writes them, and a small damaged entry must not eat the memory.
inline constexpr std::size_t max_ptx_bytes = std::size_t{256} << 20;

/// The PTX in `image`: plain text as it is (up to its first zero byte), of a fatbin the entry of the highest
/// architecture up to newest_ptx_arch, decompressed (zstd, LZ4). The pointer-holding wrapper around a fatbin
/// must have been followed already (cudaabi::image_extent). Thread-safe.
tl::expected<std::string, ImageError> ptx_from_image(std::span<const std::byte> image);

}  // namespace softgpu
