// Splits PTX text into tokens, on demand and without copying: a token's text is a view into the source.
//
// Knows PTX's spelling (names, directives, numbers, strings, comments) and nothing of its grammar. Never
// reads outside the text, whatever it holds; each byte is looked at a bounded number of times.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace softgpu::ptx {

enum class TokenKind : std::uint8_t { end, name, directive, integer, real, string, punct, bad };

/// One token. A directive's text has its dot (".visible", ".shared::cta"), a string's no quotes.
struct Token {
  TokenKind kind = TokenKind::end;
  std::string_view text;
  std::uint32_t line = 1;

  bool is(char c) const { return kind == TokenKind::punct && text.size() == 1 && text[0] == c; }
  bool is_punct(std::string_view s) const { return kind == TokenKind::punct && text == s; }
  bool is_directive(std::string_view s) const { return kind == TokenKind::directive && text == s; }
  bool is_name(std::string_view s) const { return kind == TokenKind::name && text == s; }
};

class Lexer {
 public:
  /// `text` must outlive the lexer and every token.
  explicit Lexer(std::string_view text) : text_(text) {}

  /// The next token; at the end TokenKind::end for ever, TokenKind::bad (one byte) for what is no PTX.
  Token next();

  /// The first byte of the next token, not taking it; '\0' at the end.
  char peek();

  /// Goes on reading a mnemonic whose first part was the token just taken: appends the parts after each dot
  /// to `parts` and returns the whole mnemonic. Parts may begin with a digit ("2d") and hold "::".
  std::string_view mnemonic(std::string_view first, std::vector<std::string_view>& parts);

  /// The name after a dot that follows directly (`%tid.x`), or empty.
  std::string_view element();

  std::uint32_t line() const { return line_; }

 private:
  void skip_blanks();
  void skip_block_comment();
  Token take(TokenKind kind, std::size_t length);
  Token number();
  std::size_t scan_dotted(std::size_t from) const;

  std::string_view text_;
  std::size_t pos_ = 0;
  std::uint32_t line_ = 1;
  bool line_start_ = true;
};

}  // namespace softgpu::ptx
