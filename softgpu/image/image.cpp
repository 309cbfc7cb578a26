#include "softgpu/image/image.hpp"

#include <lz4.h>
#include <zstd.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <optional>
#include <string_view>

#include "cudaabi/image.hpp"

namespace softgpu {
namespace {

using cudaabi::FatbinEntry;

constexpr std::uint32_t fatbin_magic = 0xBA55ED50;
constexpr std::string_view elf_magic =
    "\x7f"
    "ELF";

tl::unexpected<ImageError> invalid(std::string reason) {
  return tl::unexpected(ImageError{ImageError::Kind::invalid, std::move(reason)});
}

tl::unexpected<ImageError> no_binary(std::string reason) {
  return tl::unexpected(ImageError{ImageError::Kind::no_binary, std::move(reason)});
}

std::string_view characters(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string text_of(std::string_view bytes) {
  return std::string(bytes.substr(0, bytes.find('\0')));
}

/// PTX begins with white space, a comment or a directive.
bool looks_like_text(std::string_view bytes) {
  const auto first = std::find_if(bytes.begin(), bytes.end(),
                                  [](char c) { return std::isspace(static_cast<unsigned char>(c)) == 0; });
  return first != bytes.end() && (*first == '.' || *first == '/');
}

bool is_fatbin(std::string_view bytes) {
  std::uint32_t magic = 0;
  if (bytes.size() < sizeof magic) return false;
  std::memcpy(&magic, bytes.data(), sizeof magic);
  return magic == fatbin_magic;
}

/// The bytes that decompressing `entry` gave, fewer than stated where its end holds no text; -1 on damage.
std::ptrdiff_t decompress_into(std::string& text, const FatbinEntry& entry) {
  if (entry.compression == FatbinEntry::Compression::zstd) {
    const std::size_t size =
        ZSTD_decompress(text.data(), text.size(), entry.payload.data(), entry.payload.size());
    return ZSTD_isError(size) != 0U ? -1 : static_cast<std::ptrdiff_t>(size);
  }
  return LZ4_decompress_safe(reinterpret_cast<const char*>(entry.payload.data()), text.data(),
                             static_cast<int>(entry.payload.size()), static_cast<int>(text.size()));
}

tl::expected<std::string, ImageError> decompressed(const FatbinEntry& entry) {
  if (entry.payload.size() > max_ptx_bytes || entry.uncompressed_size > max_ptx_bytes) {
    return invalid("a fatbin entry of more than 256 MiB");
  }
  if (entry.compression == FatbinEntry::Compression::none) return text_of(characters(entry.payload));
  std::string text(entry.uncompressed_size, '\0');
  const std::ptrdiff_t size = decompress_into(text, entry);
  if (size < 0) return invalid("a fatbin entry that does not decompress");
  return text_of(std::string_view(text).substr(0, static_cast<std::size_t>(size)));
}

std::string entries_of_no_use(const std::vector<FatbinEntry>& entries) {
  if (entries.empty()) {
    return "an empty fatbin: relocatable device code (nvcc -rdc=true) compiled to PTX needs a link step that "
           "this GPU does not do; build for one translation unit, without -rdc";
  }
  std::string list;
  for (const FatbinEntry& entry : entries) {
    if (list.size() > 200) break;
    if (!list.empty()) list += ", ";
    list += (entry.kind == FatbinEntry::Kind::ptx ? "compute_" : "sm_") + std::to_string(entry.arch);
  }
  return "the fatbin holds only " + list + "; this GPU runs PTX up to compute_" +
         std::to_string(newest_ptx_arch);
}

tl::expected<std::string, ImageError> ptx_of_fatbin(std::span<const std::byte> image) {
  const auto entries = cudaabi::fatbin_entries(image);
  if (!entries) return invalid("a damaged fatbin");
  const FatbinEntry* best = nullptr;
  for (const FatbinEntry& entry : *entries) {
    if (entry.kind != FatbinEntry::Kind::ptx || entry.arch > newest_ptx_arch) continue;
    if (best == nullptr || entry.arch > best->arch) best = &entry;
  }
  if (best == nullptr) return no_binary(entries_of_no_use(*entries));
  return decompressed(*best);
}

}  // namespace

tl::expected<std::string, ImageError> ptx_from_image(std::span<const std::byte> image) {
  const std::string_view bytes = characters(image);
  if (is_fatbin(bytes)) return ptx_of_fatbin(image);
  if (bytes.substr(0, elf_magic.size()) == elf_magic) {
    return no_binary("machine code (a cubin) without PTX; this GPU compiles PTX only");
  }
  if (!looks_like_text(bytes)) return invalid("neither a fatbin nor PTX text nor machine code");
  if (bytes.size() > max_ptx_bytes) return invalid("PTX text of more than 256 MiB");
  return text_of(bytes);
}

}  // namespace softgpu
