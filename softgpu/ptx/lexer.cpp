#include "softgpu/ptx/lexer.hpp"

#include <algorithm>
#include <array>

namespace softgpu::ptx {
namespace {

enum : std::uint8_t { blank = 1, digit = 2, hex = 4, start = 8, follow = 16 };

constexpr std::array<std::uint8_t, 256> make_classes() {
  std::array<std::uint8_t, 256> classes{};
  for (unsigned c = 0; c < 256; ++c) {
    std::uint8_t k = 0;
    const bool is_digit = c >= '0' && c <= '9';
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\v' || c == '\f') k |= blank;
    if (is_digit) k |= digit | hex | follow;
    if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) k |= hex;
    if (is_letter || c == '_' || c == '$') k |= start | follow;
    classes[c] = k;
  }
  return classes;
}
constexpr auto classes = make_classes();

bool is(char c, std::uint8_t k) {
  return (classes[static_cast<unsigned char>(c)] & k) != 0;
}

}  // namespace

void Lexer::skip_block_comment() {
  const std::size_t close = text_.find("*/", pos_ + 2);
  const std::size_t after = close == std::string_view::npos ? text_.size() : close + 2;
  line_ += static_cast<std::uint32_t>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(pos_),
                                                 text_.begin() + static_cast<std::ptrdiff_t>(after), '\n'));
  pos_ = after;
}

void Lexer::skip_blanks() {
  while (pos_ < text_.size()) {
    const char c = text_[pos_];
    if (c == '\n') {
      ++line_;
      ++pos_;
      line_start_ = true;
    } else if (is(c, blank)) {
      ++pos_;
    } else if (text_.substr(pos_, 2) == "/*") {
      skip_block_comment();
    } else if (text_.substr(pos_, 2) == "//" || (c == '#' && line_start_)) {
      // A comment, or a preprocessor's line marker.
      pos_ = std::min(text_.find('\n', pos_), text_.size());
    } else {
      return;
    }
  }
}

char Lexer::peek() {
  skip_blanks();
  return pos_ < text_.size() ? text_[pos_] : '\0';
}

Token Lexer::take(TokenKind kind, std::size_t length) {
  const Token token{kind, text_.substr(pos_, length), line_};
  pos_ += length;
  line_start_ = false;
  return token;
}

/// The end of a run of name characters that may hold "::" between two of them.
std::size_t Lexer::scan_dotted(std::size_t from) const {
  std::size_t p = from;
  while (p < text_.size()) {
    if (is(text_[p], follow)) {
      ++p;
    } else if (text_[p] == ':' && p + 2 < text_.size() && text_[p + 1] == ':' && is(text_[p + 2], follow)) {
      p += 2;
    } else {
      break;
    }
  }
  return p;
}

Token Lexer::number() {
  const auto at = [this](std::size_t p) { return p < text_.size() ? text_[p] : '\0'; };
  std::size_t p = pos_;
  if (at(p) == '0') {
    const char form = at(p + 1);
    const std::size_t digits = form == 'f' || form == 'F' ? 8U : (form == 'd' || form == 'D' ? 16U : 0U);
    if (digits != 0) {
      p += 2;
      while (p - pos_ < 2 + digits && is(at(p), hex)) ++p;
      return take(p - pos_ == 2 + digits ? TokenKind::real : TokenKind::bad, p - pos_);
    }
    if (form == 'x' || form == 'X') {
      p += 2;
      while (is(at(p), hex)) ++p;
      const bool some = p - pos_ > 2;
      if (at(p) == 'U') ++p;
      return take(some ? TokenKind::integer : TokenKind::bad, p - pos_);
    }
    if ((form == 'b' || form == 'B') && is(at(p + 2), digit)) {
      p += 2;
      while (is(at(p), digit)) ++p;
      if (at(p) == 'U') ++p;
      return take(TokenKind::integer, p - pos_);
    }
  }
  while (is(at(p), digit)) ++p;
  bool real = false;
  if (at(p) == '.' && is(at(p + 1), digit)) {
    real = true;
    ++p;
    while (is(at(p), digit)) ++p;
  } else if (at(p) == '.' && !is(at(p + 1), start)) {
    real = true;
    ++p;
  }
  if (at(p) == 'e' || at(p) == 'E') {
    const std::size_t exponent = p + (at(p + 1) == '+' || at(p + 1) == '-' ? 2U : 1U);
    if (is(at(exponent), digit)) {
      real = true;
      p = exponent;
      while (is(at(p), digit)) ++p;
    }
  }
  if (!real && at(p) == 'U') ++p;
  return take(real ? TokenKind::real : TokenKind::integer, p - pos_);
}

Token Lexer::next() {
  skip_blanks();
  if (pos_ >= text_.size()) return {TokenKind::end, {}, line_};
  const char c = text_[pos_];
  const char c1 = pos_ + 1 < text_.size() ? text_[pos_ + 1] : '\0';
  if (is(c, start) || (c == '%' && is(c1, follow))) {
    std::size_t p = pos_ + 1;
    while (p < text_.size() && is(text_[p], follow)) ++p;
    return take(TokenKind::name, p - pos_);
  }
  if (is(c, digit)) return number();
  if (c == '.' && is(c1, start)) return take(TokenKind::directive, scan_dotted(pos_ + 1) - pos_);
  if (c == '"') {
    // A backslash hides the byte after it; strings end within their line.
    std::size_t p = pos_ + 1;
    while (p < text_.size() && text_[p] != '"' && text_[p] != '\n') p += text_[p] == '\\' ? 2U : 1U;
    if (p >= text_.size() || text_[p] != '"') return take(TokenKind::bad, 1);
    Token token = take(TokenKind::string, p + 1 - pos_);
    token.text = token.text.substr(1, token.text.size() - 2);
    return token;
  }
  static constexpr std::string_view pairs[] = {"<<", ">>", "<=", ">=", "==", "!=", "&&", "||"};
  const std::string_view two = text_.substr(pos_, 2);
  for (const std::string_view pair : pairs) {
    if (two == pair) return take(TokenKind::punct, 2);
  }
  static constexpr std::string_view singles = "{}()[]<>,;:@!|&^~+-*/%?=";
  if (singles.find(c) != std::string_view::npos) return take(TokenKind::punct, 1);
  return take(TokenKind::bad, 1);
}

std::string_view Lexer::mnemonic(std::string_view first, std::vector<std::string_view>& parts) {
  const auto begin = static_cast<std::size_t>(first.data() - text_.data());
  std::size_t end = begin + first.size();
  while (true) {
    // "mov .u32" is legal, if rare: blanks within one line are stepped over when a dot follows them.
    std::size_t p = pos_;
    while (p < text_.size() && (text_[p] == ' ' || text_[p] == '\t')) ++p;
    if (p + 1 >= text_.size() || text_[p] != '.' || !is(text_[p + 1], follow)) break;
    end = scan_dotted(p + 1);
    parts.push_back(text_.substr(p + 1, end - p - 1));
    pos_ = end;
  }
  return text_.substr(begin, end - begin);
}

std::string_view Lexer::element() {
  if (pos_ + 1 >= text_.size() || text_[pos_] != '.' || !is(text_[pos_ + 1], start)) return {};
  std::size_t p = pos_ + 1;
  while (p < text_.size() && is(text_[p], follow)) ++p;
  const std::string_view name = text_.substr(pos_ + 1, p - pos_ - 1);
  pos_ = p;
  return name;
}

}  // namespace softgpu::ptx
