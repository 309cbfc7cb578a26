// The containers in which compiled kernels reach cuModuleLoadData and cuLibraryLoadData: a fatbin behind its
// wrapper, a bare fatbin, an ELF file (machine code) or PTX text. Finds where an image ends and walks a
// fatbin's entries; never decompresses or interprets what is inside. Sources: the ELF specification; the
// fatbin layout is public record (../shared notes name it) and seen in nvcc 13's output.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace cudaabi {

enum class ImageKind : std::uint8_t { fatbin, elf, ptx };

/// An image as one run of bytes, a wrapper already followed.
struct ImageExtent {
  const std::byte* data = nullptr;
  std::size_t size = 0;
  ImageKind kind = ImageKind::ptx;
};

/// The extent of an image that carries no length, as the driver API hands it over. `image` is trusted to be
/// what it claims (it is the calling program's own memory); nullopt when it is none of the known kinds.
std::optional<ImageExtent> image_extent(const void* image);

/// One entry of a fatbin.
struct FatbinEntry {
  enum class Kind : std::uint16_t { ptx = 1, machine_code = 2 };
  enum class Compression : std::uint8_t { none, lz4, zstd };
  Kind kind = Kind::ptx;  ///< other values exist and are skipped by readers
  Compression compression = Compression::none;
  std::uint32_t arch = 0;               ///< 75 for compute_75 or sm_75
  std::span<const std::byte> payload;   ///< as stored, without padding
  std::uint64_t uncompressed_size = 0;  ///< 0 where it is not stated (not compressed)
};

/// The entries of the fatbin in `bytes`; nullopt when a header is malformed or reaches outside. Safe on any
/// bytes.
std::optional<std::vector<FatbinEntry>> fatbin_entries(std::span<const std::byte> bytes);

}  // namespace cudaabi
