#include "daemon/worker/image_text.hpp"

#include <lz4.h>
#include <zstd.h>

#include <cstdint>
#include <cstring>
#include <string_view>

#include "daemon/worker/image_variables.hpp"

namespace vgpu::worker {
namespace {

using cudaabi::FatbinEntry;

// Of all entries together, decompressed: some milliseconds of work at a module's loading.
constexpr std::size_t most_bytes = std::size_t{16} << 20;
constexpr std::size_t most_entry_bytes = std::size_t{1} << 30;
constexpr std::uint32_t fatbin_magic = 0xBA55ED50;

constexpr ImageText anything{true, true, true};

ImageText names_in(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return {text.find("vprintf") != std::string_view::npos, text.find("__assertfail") != std::string_view::npos,
          declares_variables(bytes)};
}

ImageText entry_text(const FatbinEntry& entry, std::size_t& room) {
  if (entry.compression == FatbinEntry::Compression::none) return names_in(entry.payload);
  if (entry.uncompressed_size > room || entry.payload.size() > most_bytes) return anything;
  room -= entry.uncompressed_size;
  std::vector<std::byte> buffer;
  const auto plain = plain_bytes(entry, buffer);
  return plain ? names_in(*plain) : anything;
}

}  // namespace

std::optional<std::span<const std::byte>> plain_bytes(const FatbinEntry& entry,
                                                      std::vector<std::byte>& buffer) {
  if (entry.compression == FatbinEntry::Compression::none) return entry.payload;
  if (entry.uncompressed_size > most_entry_bytes || entry.payload.size() > most_entry_bytes)
    return std::nullopt;
  buffer.resize(entry.uncompressed_size);
  if (entry.compression == FatbinEntry::Compression::zstd) {
    const std::size_t size =
        ZSTD_decompress(buffer.data(), buffer.size(), entry.payload.data(), entry.payload.size());
    if (ZSTD_isError(size) != 0U) return std::nullopt;
    return std::span(buffer).first(size);
  }
  const int size = LZ4_decompress_safe(
      reinterpret_cast<const char*>(entry.payload.data()), reinterpret_cast<char*>(buffer.data()),
      static_cast<int>(entry.payload.size()), static_cast<int>(buffer.size()));
  if (size < 0) return std::nullopt;
  return std::span(buffer).first(static_cast<std::size_t>(size));
}

ImageText image_text(std::span<const std::byte> image) {
  std::uint32_t magic = 0;
  if (image.size() >= sizeof magic) std::memcpy(&magic, image.data(), sizeof magic);
  if (magic != fatbin_magic) return names_in(image);
  const auto entries = cudaabi::fatbin_entries(image);
  if (!entries) return anything;
  std::size_t room = most_bytes;
  ImageText text;
  for (const FatbinEntry& entry : *entries) {
    const ImageText one = entry_text(entry, room);
    text.prints |= one.prints;
    text.asserts |= one.asserts;
    text.variables |= one.variables;
    if (text.prints && text.asserts && text.variables) break;
  }
  return text;
}

}  // namespace vgpu::worker
