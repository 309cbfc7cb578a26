#include "daemon/worker/ptx_variables.hpp"

#include <cctype>
#include <charconv>
#include <cstring>

namespace vgpu::worker {
namespace {

using Count = std::optional<std::uint64_t>;
using Variables = std::vector<ImageVariable>;

std::uint64_t product(std::uint64_t a, std::uint64_t b) {
  return b != 0 && a > most_variable_bytes / b ? most_variable_bytes : a * b;
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

  /// The bytes of its variables; adds them to `found`, unless it is null.
  Count bytes(Variables* found) {
    std::uint64_t element = 0;
    bool reference = false;  // to a texture, or a sampler
    bool managed = false;
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
          managed |= word == ".managed";
        } while (depth > 0 && !word.empty());
      } else if (is_vector(word)) {
        vector = static_cast<std::uint64_t>(word[2] - '0');
      } else if (word == ".texref" || word == ".samplerref" || word == ".surfref") {
        element = 8;  // or nothing: the driver keeps them
        reference = true;
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
      if (found != nullptr && !reference && !written_by_compiler(word))
        found->push_back({std::string(word), managed});
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
      sum += std::max(product(product(count, vector), element), std::min(align, most_variable_bytes));
      if (sum >= most_variable_bytes) return most_variable_bytes;
      if (word == ";") return sum;
      if (word != ",") return std::nullopt;
      word = words_.next();
      if (word.empty()) return std::nullopt;
    }
  }

 private:
  Words& words_;
};

std::size_t find_word(std::string_view text, std::string_view wanted, std::size_t from) {
  // Several times as fast as string_view::find() where each line has some dots.
  const void* const found = memmem(text.data() + from, text.size() - from, wanted.data(), wanted.size());
  return found == nullptr ? std::string_view::npos
                          : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
}

/// Whether a declaration seems to begin at `at`, where there is a ".global" or a ".const".
bool begins_declaration(std::string_view text, std::size_t at, std::size_t size) {
  // Of an instruction it is a part ("ld.global.u32").
  const auto part = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  if (at + size < text.size() && part(text[at + size])) return false;
  std::string_view before = text.substr(0, at);
  // ".visible.global" may be one word to the eye only.
  if (!before.empty() && part(before.back())) {
    return before.ends_with(".visible") || before.ends_with(".extern") || before.ends_with(".weak") ||
           before.ends_with(".common");
  }
  while (!before.empty() && std::isspace(static_cast<unsigned char>(before.back())) != 0)
    before.remove_suffix(1);
  return !before.ends_with(".ptr");
}

}  // namespace

bool written_by_compiler(std::string_view name) {
  for (const std::string_view prefix : {"$str", "__cudart_", "_ZTV", "_ZTI", "_ZTS"}) {
    if (name.starts_with(prefix)) return true;
  }
  return false;
}

std::optional<std::uint64_t> ptx_variables(std::string_view text, std::vector<ImageVariable>* found) {
  text = text.substr(0, text.find('\0'));
  Words words(text);
  std::uint64_t sum = 0;
  std::string_view before;
  for (std::string_view word = words.next(); !word.empty(); before = word, word = words.next()) {
    // ".param .u64 .ptr .global p" only says where a pointer points to. What is external and has a size is
    // made, too, where nothing is linked to it (ptxas 13).
    if ((word != ".global" && word != ".const") || before == ".ptr") continue;
    const auto bytes = Declaration(words).bytes(found);
    if (!bytes) return std::nullopt;
    sum = std::min(sum + *bytes, most_variable_bytes);
  }
  return sum;
}

bool ptx_declares(std::string_view text) {
  text = text.substr(0, text.find('\0'));
  for (const std::string_view space : {".global", ".const"}) {
    for (std::size_t at = find_word(text, space, 0); at != std::string_view::npos;
         at = find_word(text, space, at + 1)) {
      if (!begins_declaration(text, at, space.size())) continue;
      Words words(text.substr(at + space.size()));
      Variables found;
      if (!Declaration(words).bytes(&found) || !found.empty()) return true;
    }
  }
  return false;
}

}  // namespace vgpu::worker
