#include "daemon/worker/image_variables.hpp"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "cudaabi/image.hpp"
#include "daemon/worker/image_text.hpp"

namespace vgpu::worker {
namespace {

using cudaabi::FatbinEntry;
using Count = std::optional<std::uint64_t>;
using Variables = std::vector<ImageVariable>;

constexpr std::uint32_t fatbin_start = 0xBA55ED50;

/// Sections of an ELF file of 64 bits, checked against its size.
class Elf {
 public:
  /// Nothing where the file is damaged.
  static std::optional<Elf> of(std::span<const std::byte> image) {
    Elf elf(image);
    const std::uint64_t size = image.size();
    if (size < sizeof elf.header_) return std::nullopt;
    std::memcpy(&elf.header_, image.data(), sizeof elf.header_);
    const Elf64_Ehdr& header = elf.header_;
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_shentsize != sizeof(Elf64_Shdr) ||
        header.e_shnum == 0 || header.e_shstrndx >= header.e_shnum || header.e_shoff > size ||
        (size - header.e_shoff) / sizeof(Elf64_Shdr) < header.e_shnum) {
      return std::nullopt;
    }
    const auto names = elf.text(header.e_shstrndx);
    if (!names) return std::nullopt;
    elf.names_ = *names;
    return elf;
  }

  std::size_t count() const { return header_.e_shnum; }
  Elf64_Shdr section(std::size_t index) const {
    return read<Elf64_Shdr>(header_.e_shoff + index * sizeof(Elf64_Shdr));
  }
  std::optional<std::string_view> name(const Elf64_Shdr& section) const {
    return at(names_, section.sh_name);
  }
  /// What a section holds as text.
  std::optional<std::string_view> text(std::size_t index) const {
    const Elf64_Shdr of = section(index);
    if (!inside(of)) return std::nullopt;
    return std::string_view(reinterpret_cast<const char*>(image_.data()) + of.sh_offset, of.sh_size);
  }
  bool inside(const Elf64_Shdr& section) const {
    return section.sh_offset <= image_.size() && section.sh_size <= image_.size() - section.sh_offset;
  }
  /// The text up to its NUL behind a place in it.
  static std::optional<std::string_view> at(std::string_view text, std::size_t place) {
    if (place >= text.size()) return std::nullopt;
    text = text.substr(place);
    return text.substr(0, text.find('\0'));
  }
  template <class T>
  T read(std::uint64_t offset) const {
    T made;
    std::memcpy(&made, image_.data() + offset, sizeof made);
    return made;
  }

 private:
  explicit Elf(std::span<const std::byte> image) : image_(image) {}

  std::span<const std::byte> image_;
  Elf64_Ehdr header_{};
  std::string_view names_;
};

bool holds_variables(const Elf64_Shdr& section, std::string_view name) {
  return (section.sh_flags & SHF_ALLOC) != 0 &&
         (name.starts_with(".nv.global") || name.starts_with(".nv.constant"));
}

Count elf_variable_bytes(std::span<const std::byte> image) {
  const auto elf = Elf::of(image);
  if (!elf) return std::nullopt;
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < elf->count(); ++i) {
    const Elf64_Shdr one = elf->section(i);
    const auto name = elf->name(one);
    if (!name) return std::nullopt;
    if ((one.sh_flags & SHF_ALLOC) == 0 || name->starts_with(".nv.shared")) continue;
    // What is in the file is no larger than it; what is not may be of any size, whatever its name.
    if (holds_variables(one, *name) || one.sh_type == SHT_NOBITS) {
      sum += std::min<std::uint64_t>(one.sh_size, most_variable_bytes);
    }
  }
  return std::min(sum, most_variable_bytes);
}

/// The symbols of an ELF file's variables; false where they cannot be told.
bool elf_variables(std::span<const std::byte> image, Variables& found) {
  constexpr unsigned char managed_symbol = 4;  // in st_other: seen in nvcc 13's output
  const auto elf = Elf::of(image);
  if (!elf) return false;
  std::vector<bool> of_variables(elf->count());
  for (std::size_t i = 0; i < elf->count(); ++i) {
    const auto name = elf->name(elf->section(i));
    if (!name) return false;
    of_variables[i] = holds_variables(elf->section(i), *name);
  }
  for (std::size_t i = 0; i < elf->count(); ++i) {
    const Elf64_Shdr table = elf->section(i);
    if (table.sh_type != SHT_SYMTAB) continue;
    const auto names = table.sh_link < elf->count() ? elf->text(table.sh_link) : std::nullopt;
    if (!names || !elf->inside(table) || table.sh_entsize != sizeof(Elf64_Sym)) return false;
    for (std::uint64_t at = 0; at + sizeof(Elf64_Sym) <= table.sh_size; at += sizeof(Elf64_Sym)) {
      const auto symbol = elf->read<Elf64_Sym>(table.sh_offset + at);
      if (ELF64_ST_TYPE(symbol.st_info) != STT_OBJECT || symbol.st_shndx >= elf->count() ||
          !of_variables[symbol.st_shndx]) {
        continue;
      }
      const auto name = Elf::at(*names, symbol.st_name);
      if (!name) return false;
      if (!written_by_compiler(*name)) {
        found.push_back({std::string(*name), (symbol.st_other & managed_symbol) != 0});
      }
    }
  }
  return true;
}

bool is_elf(std::span<const std::byte> image) {
  return image.size() >= SELFMAG && std::memcmp(image.data(), ELFMAG, SELFMAG) == 0;
}

std::string_view text_of(std::span<const std::byte> image) {
  return {reinterpret_cast<const char*>(image.data()), image.size()};
}

/// Whether the driver may choose the entry on such a device: PTX for it or an older one, machine code of the
/// same generation.
bool may_run(const FatbinEntry& entry, std::uint32_t capability) {
  if (entry.arch > capability) return false;
  return entry.kind == FatbinEntry::Kind::ptx ||
         (entry.kind == FatbinEntry::Kind::machine_code && entry.arch / 10 == capability / 10);
}

/// Calls read(bytes) for each image that the driver may choose, decompressed, until it returns false; false
/// then, and where one cannot be had.
template <class F>
bool each_image(std::span<const std::byte> image, std::uint32_t capability, F&& read) {
  std::uint32_t magic = 0;
  if (image.size() >= sizeof magic) std::memcpy(&magic, image.data(), sizeof magic);
  if (magic != fatbin_start) return read(image);
  const auto entries = cudaabi::fatbin_entries(image);
  if (!entries) return false;
  for (const FatbinEntry& entry : *entries) {
    if (!may_run(entry, capability)) continue;
    std::vector<std::byte> buffer;
    const auto plain = plain_bytes(entry, buffer);
    if (!plain || !read(*plain)) return false;
  }
  return true;
}

}  // namespace

std::optional<std::uint64_t> ptx_variable_bytes(std::string_view text) {
  return ptx_variables(text, nullptr);
}

std::optional<std::uint64_t> variable_bytes(std::span<const std::byte> image, std::uint32_t capability) {
  std::uint64_t largest = 0;
  const bool told = each_image(image, capability, [&](std::span<const std::byte> one) {
    const Count bytes = is_elf(one) ? elf_variable_bytes(one) : ptx_variable_bytes(text_of(one));
    largest = std::max(largest, bytes.value_or(0));
    return bytes.has_value();
  });
  return told ? Count(largest) : std::nullopt;
}

std::optional<std::vector<ImageVariable>> image_variables(std::span<const std::byte> image,
                                                          std::uint32_t capability) {
  Variables all;
  const bool told = each_image(image, capability, [&](std::span<const std::byte> one) {
    return is_elf(one) ? elf_variables(one, all) : ptx_variables(text_of(one), &all).has_value();
  });
  if (!told) return std::nullopt;
  std::set<std::string_view> seen;
  Variables each;
  for (const ImageVariable& variable : all) {
    if (seen.insert(variable.name).second) each.push_back(variable);
  }
  return each;
}

bool declares_variables(std::span<const std::byte> code) {
  if (!is_elf(code)) return ptx_declares(text_of(code));
  Variables found;
  return !elf_variables(code, found) || !found.empty();
}

}  // namespace vgpu::worker
