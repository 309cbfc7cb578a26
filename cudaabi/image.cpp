#include "cudaabi/image.hpp"

#include <elf.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <string_view>

namespace cudaabi {
namespace {

constexpr std::uint32_t wrapper_magic = 0x466243B1;
constexpr std::uint32_t fatbin_magic = 0xBA55ED50;
constexpr std::uint64_t flag_lz4 = 0x2000;
constexpr std::uint64_t flag_zstd = 0x8000;

struct Wrapper {
  std::uint32_t magic;
  std::uint32_t version;
  const std::byte* data;
  const void* extra;
};

struct FatbinHeader {
  std::uint32_t magic;
  std::uint16_t version;
  std::uint16_t header_size;
  std::uint64_t body_size;
};

struct EntryHeader {
  std::uint16_t kind;
  std::uint16_t version;
  std::uint32_t header_size;
  std::uint64_t stored_size;      // with padding
  std::uint32_t compressed_size;  // 0 where nothing is compressed
  std::uint32_t options_offset;
  std::uint16_t minor, major;
  std::uint32_t arch;
  std::uint32_t name_offset, name_size;
  std::uint64_t flags;
  std::uint64_t reserved;
  std::uint64_t uncompressed_size;
};
static_assert(sizeof(EntryHeader) == 64);

template <typename T>
T read(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

std::size_t elf_size(const std::byte* image) {
  const auto header = read<Elf64_Ehdr>(image);
  std::uint64_t end = std::max<std::uint64_t>(
      sizeof header, header.e_shoff + std::uint64_t{header.e_shnum} * header.e_shentsize);
  end = std::max<std::uint64_t>(end, header.e_phoff + std::uint64_t{header.e_phnum} * header.e_phentsize);
  for (unsigned i = 0; i < header.e_shnum; ++i) {
    const auto section = read<Elf64_Shdr>(image + header.e_shoff + std::size_t{i} * header.e_shentsize);
    if (section.sh_type != SHT_NOBITS)
      end = std::max<std::uint64_t>(end, section.sh_offset + section.sh_size);
  }
  return end;
}

// PTX begins with white space, comments or a directive; anything else is no text that a driver would compile.
bool looks_like_text(const char* text) {
  for (; *text != '\0'; ++text) {
    const auto c = static_cast<unsigned char>(*text);
    if (std::isspace(c)) continue;
    return c == '.' || c == '/';
  }
  return false;
}

}  // namespace

std::optional<ImageExtent> image_extent(const void* image) {
  if (image == nullptr) return std::nullopt;
  const auto* bytes = static_cast<const std::byte*>(image);
  auto magic = read<std::uint32_t>(bytes);
  if (magic == wrapper_magic) {
    bytes = read<Wrapper>(bytes).data;
    if (bytes == nullptr) return std::nullopt;
    magic = read<std::uint32_t>(bytes);
  }
  if (magic == fatbin_magic) {
    const auto header = read<FatbinHeader>(bytes);
    return ImageExtent{bytes, header.header_size + header.body_size, ImageKind::fatbin};
  }
  if (std::memcmp(bytes, ELFMAG, SELFMAG) == 0) return ImageExtent{bytes, elf_size(bytes), ImageKind::elf};
  const auto* text = reinterpret_cast<const char*>(bytes);
  if (!looks_like_text(text)) return std::nullopt;
  return ImageExtent{bytes, std::strlen(text) + 1, ImageKind::ptx};
}

std::optional<std::vector<FatbinEntry>> fatbin_entries(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(FatbinHeader)) return std::nullopt;
  const auto header = read<FatbinHeader>(bytes.data());
  if (header.magic != fatbin_magic || header.header_size < sizeof header ||
      header.header_size > bytes.size()) {
    return std::nullopt;
  }
  auto rest = bytes.subspan(header.header_size);
  if (header.body_size > rest.size()) return std::nullopt;
  rest = rest.first(header.body_size);

  std::vector<FatbinEntry> entries;
  while (!rest.empty()) {
    if (rest.size() < sizeof(EntryHeader)) return std::nullopt;
    const auto entry = read<EntryHeader>(rest.data());
    if (entry.header_size < sizeof entry || entry.header_size > rest.size()) return std::nullopt;
    rest = rest.subspan(entry.header_size);
    if (entry.stored_size > rest.size()) return std::nullopt;
    const std::uint64_t used = entry.compressed_size != 0 ? entry.compressed_size : entry.stored_size;
    if (used > entry.stored_size) return std::nullopt;

    FatbinEntry& out = entries.emplace_back();
    out.kind = static_cast<FatbinEntry::Kind>(entry.kind);
    out.arch = entry.arch;
    out.payload = rest.first(used);
    if (entry.flags & flag_zstd) out.compression = FatbinEntry::Compression::zstd;
    if (entry.flags & flag_lz4) out.compression = FatbinEntry::Compression::lz4;
    if (out.compression != FatbinEntry::Compression::none) out.uncompressed_size = entry.uncompressed_size;
    rest = rest.subspan(entry.stored_size);
  }
  return entries;
}

}  // namespace cudaabi
