#include "daemon/worker/image_variables.hpp"

#include <elf.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <vector>

#include "cudaabi/image.hpp"
#include "daemon/worker/image_text.hpp"

namespace vgpu::worker {
namespace {

using cudaabi::FatbinEntry;
using Count = std::optional<std::uint64_t>;

constexpr std::uint32_t fatbin_start = 0xBA55ED50;
constexpr std::uint64_t unlimited = std::uint64_t{1} << 48;  // more than any device has

std::uint64_t product(std::uint64_t a, std::uint64_t b) {
  return b != 0 && a > unlimited / b ? unlimited : a * b;
}

/// Words of PTX: names and numbers, directives one by one (".global" and ".b8" of ".global.b8"), instructions
/// with all that hangs on them ("ld.global.u32"), single characters; comments are left out.
class Words {
 public:
  explicit Words(std::string_view text) : text_(text) {}

  /// The next word; empty at the end.
  std::string_view next() {
    skip();
    if (at_ == text_.size()) return {};
    const std::size_t begin = at_;
    if (text_[at_] == '"') {
      const std::size_t end = text_.find('"', at_ + 1);
      at_ = end == std::string_view::npos ? text_.size() : end + 1;
    } else if (in_word(text_[at_])) {
      const bool directive = text_[at_++] == '.';
      while (at_ < text_.size() && in_word(text_[at_]) && !(directive && text_[at_] == '.')) ++at_;
    } else {
      ++at_;
    }
    return text_.substr(begin, at_ - begin);
  }

 private:
  static bool in_word(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%' || c == '.';
  }
  void skip() {
    while (at_ < text_.size()) {
      if (std::isspace(static_cast<unsigned char>(text_[at_])) != 0) {
        ++at_;
      } else if (text_.compare(at_, 2, "//") == 0) {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (text_.compare(at_, 2, "/*") == 0) {
        const std::size_t end = text_.find("*/", at_ + 2);
        at_ = end == std::string_view::npos ? text_.size() : end + 2;
      } else {
        return;
      }
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

Count number(std::string_view word) {
  if (word == "WARP_SZ") return 32;
  if (word.size() > 1 && word.back() == 'U') word.remove_suffix(1);
  int base = 10;
  if (word.size() > 1 && word[0] == '0') {
    base = 8;
    word.remove_prefix(1);
    if (word[0] == 'x' || word[0] == 'X' || word[0] == 'b' || word[0] == 'B') {
      base = std::tolower(static_cast<unsigned char>(word[0])) == 'x' ? 16 : 2;
      word.remove_prefix(1);
    }
  }
  std::uint64_t value = 0;
  const char* const last = word.data() + word.size();
  const auto [end, error] = std::from_chars(word.data(), last, value, base);
  if (error != std::errc{} || end != last) return std::nullopt;
  return value;
}

/// Bytes of a fundamental type or a vector's factor (".b8", ".f16x2", ".v4"); 0 for what is neither.
std::uint64_t type_bytes(std::string_view word) {
  const auto digits = word.find_first_of("0123456789");
  if (digits == std::string_view::npos || digits < 2) return word == ".pred" ? 1 : 0;
  std::uint64_t bits = 0;
  const auto [end, error] = std::from_chars(word.data() + digits, word.data() + word.size(), bits);
  if (error != std::errc{} || bits == 0 || bits > 128) return 0;
  const std::string_view rest(end, static_cast<std::size_t>(word.data() + word.size() - end));
  return (bits + 7) / 8 * (rest == "x2" ? 2 : rest == "x4" ? 4 : 1);
}

bool is_vector(std::string_view word) {
  return word == ".v2" || word == ".v4" || word == ".v8";
}

/// Reads a declaration behind its ".global" or ".const", up to its semicolon.
class Declaration {
 public:
  explicit Declaration(Words& words) : words_(words) {}

  Count bytes() {
    std::uint64_t element = 0;
    std::uint64_t vector = 1;
    std::uint64_t align = 1;
    std::string_view word = words_.next();
    for (; !word.empty() && word[0] == '.'; word = words_.next()) {
      if (word == ".align") {
        const Count wanted = number(words_.next());
        if (!wanted) return std::nullopt;
        align = *wanted;
      } else if (word == ".attribute") {
        int depth = 0;
        do {
          word = words_.next();
          if (word == "(") ++depth;
          if (word == ")") --depth;
        } while (depth > 0 && !word.empty());
      } else if (is_vector(word)) {
        vector = static_cast<std::uint64_t>(word[2] - '0');
      } else if (word == ".texref" || word == ".samplerref" || word == ".surfref") {
        element = 8;  // or nothing: the driver keeps them
      } else if (const std::uint64_t of_type = type_bytes(word); of_type != 0) {
        element = of_type;
      } else if (word != ".ptr" && word != ".managed") {
        return std::nullopt;
      }
    }
    if (element == 0 || word.empty()) return std::nullopt;
    // Names, each with its dimensions and initial values.
    std::uint64_t sum = 0;
    for (;;) {
      std::uint64_t count = 1;
      bool open = false;  // the first dimension is counted by the values
      word = words_.next();
      for (; word == "["; word = words_.next()) {
        word = words_.next();
        if (word == "]") {
          open = true;
          continue;
        }
        const Count dimension = number(word);
        if (!dimension || words_.next() != "]") return std::nullopt;
        count = product(count, *dimension);
      }
      if (word == "=") {
        std::uint64_t values = 1;
        int depth = 0;
        for (word = words_.next(); !word.empty() && (depth != 0 || (word != "," && word != ";"));
             word = words_.next()) {
          if (word == "{") ++depth;
          if (word == "}") --depth;
          if (word == ",") ++values;
        }
        if (open) count = std::max(count, product(count, values));
      }
      sum += std::max(product(product(count, vector), element), std::min(align, unlimited));
      if (sum >= unlimited) return unlimited;
      if (word == ";") return sum;
      if (word != "," || words_.next().empty()) return std::nullopt;
    }
  }

 private:
  Words& words_;
};

Count elf_variable_bytes(std::span<const std::byte> image) {
  Elf64_Ehdr header;
  if (image.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, image.data(), sizeof header);
  const std::uint64_t size = image.size();
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_shentsize != sizeof(Elf64_Shdr) ||
      header.e_shnum == 0 || header.e_shstrndx >= header.e_shnum || header.e_shoff > size ||
      (size - header.e_shoff) / sizeof(Elf64_Shdr) < header.e_shnum) {
    return std::nullopt;
  }
  const auto section = [&](std::size_t index) {
    Elf64_Shdr made;
    std::memcpy(&made, image.data() + header.e_shoff + index * sizeof made, sizeof made);
    return made;
  };
  const Elf64_Shdr names = section(header.e_shstrndx);
  if (names.sh_offset > size || size - names.sh_offset < names.sh_size) return std::nullopt;
  const std::string_view text(reinterpret_cast<const char*>(image.data()) + names.sh_offset, names.sh_size);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < header.e_shnum; ++i) {
    const Elf64_Shdr one = section(i);
    if (one.sh_name >= text.size()) return std::nullopt;
    std::string_view name = text.substr(one.sh_name);
    name = name.substr(0, name.find('\0'));
    if ((one.sh_flags & SHF_ALLOC) == 0 || name.starts_with(".nv.shared")) continue;
    const bool variables = name.starts_with(".nv.global") || name.starts_with(".nv.constant");
    // What is in the file is no larger than it; what is not may be of any size, whatever its name.
    if (variables || one.sh_type == SHT_NOBITS) sum += std::min<std::uint64_t>(one.sh_size, unlimited);
  }
  return std::min(sum, unlimited);
}

/// Whether the driver may choose the entry on such a device: PTX for it or an older one, machine code of the
/// same generation.
bool may_run(const FatbinEntry& entry, std::uint32_t capability) {
  if (entry.arch > capability) return false;
  return entry.kind == FatbinEntry::Kind::ptx ||
         (entry.kind == FatbinEntry::Kind::machine_code && entry.arch / 10 == capability / 10);
}

Count image_bytes(std::span<const std::byte> image) {
  std::uint32_t magic = 0;
  if (image.size() >= sizeof magic) std::memcpy(&magic, image.data(), sizeof magic);
  if (std::memcmp(&magic, ELFMAG, SELFMAG) == 0) return elf_variable_bytes(image);
  return ptx_variable_bytes({reinterpret_cast<const char*>(image.data()), image.size()});
}

}  // namespace

std::optional<std::uint64_t> ptx_variable_bytes(std::string_view text) {
  text = text.substr(0, text.find('\0'));
  Words words(text);
  std::uint64_t sum = 0;
  std::string_view before;
  for (std::string_view word = words.next(); !word.empty(); before = word, word = words.next()) {
    // ".param .u64 .ptr .global p" only says where a pointer points to. What is external and has a size is
    // made, too, where nothing is linked to it (ptxas 13).
    if ((word != ".global" && word != ".const") || before == ".ptr") continue;
    const auto bytes = Declaration(words).bytes();
    if (!bytes) return std::nullopt;
    sum += *bytes;
    if (sum >= unlimited) return unlimited;
  }
  return sum;
}

std::optional<std::uint64_t> variable_bytes(std::span<const std::byte> image, std::uint32_t capability) {
  std::uint32_t magic = 0;
  if (image.size() >= sizeof magic) std::memcpy(&magic, image.data(), sizeof magic);
  if (magic != fatbin_start) return image_bytes(image);
  const auto entries = cudaabi::fatbin_entries(image);
  if (!entries) return std::nullopt;
  std::uint64_t largest = 0;
  for (const FatbinEntry& entry : *entries) {
    if (!may_run(entry, capability)) continue;
    std::vector<std::byte> buffer;
    const auto plain = plain_bytes(entry, buffer);
    const Count bytes = plain ? image_bytes(*plain) : std::nullopt;
    if (!bytes) return std::nullopt;
    largest = std::max(largest, *bytes);
  }
  return largest;
}

}  // namespace vgpu::worker
