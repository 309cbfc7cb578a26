#include <bit>
#include <limits>

#include "softgpu/ptx/parser_state.hpp"

namespace softgpu::ptx {
namespace {

/// Elements of an initializer that the text leaves out inside nested braces; more is an error, not an
/// allocation.
constexpr std::uint64_t max_padding = 1U << 20;

}  // namespace

Constant Parser::parse_constant(int minimum_precedence) {
  const Nesting nesting(*this);
  Constant left = parse_unary();
  while (token_.kind == TokenKind::punct) {
    const std::string_view op = token_.text;
    const int precedence = binary_precedence(op);
    if (precedence == 0 || precedence < minimum_precedence) break;
    advance();
    const Constant right = parse_constant(precedence + 1);
    const auto result = apply_binary(op, left, right);
    if (!result) fail("operator '" + std::string(op) + "' does not apply to these constants");
    left = result.value_or(Constant{});
  }
  if (minimum_precedence == 1 && accept('?')) {
    const Constant yes = parse_constant();
    expect(':');
    const Constant no = parse_constant();
    left = left.is_true() ? yes : no;
  }
  return left;
}

Constant Parser::parse_unary() {
  const Nesting nesting(*this);
  if (token_.kind == TokenKind::punct && token_.text.size() == 1 &&
      std::string_view("-+!~").find(token_.text[0]) != std::string_view::npos) {
    const char op = token_.text[0];
    advance();
    const auto result = apply_unary(op, parse_unary());
    if (!result) fail("operator does not apply to a floating-point constant");
    return result.value_or(Constant{});
  }
  return parse_primary();
}

Constant Parser::parse_primary() {
  if (accept('(')) {
    if (token_.is_directive(".s64") || token_.is_directive(".u64")) {
      const bool is_unsigned = token_.is_directive(".u64");
      advance();
      expect(')');
      Constant value = parse_unary();
      if (value.is_float) fail("a cast of a floating-point constant");
      value.is_unsigned = is_unsigned;
      return value;
    }
    const Constant value = parse_constant();
    expect(')');
    return value;
  }
  if (token_.is_name("WARP_SZ")) {
    advance();
    return Constant::of_signed(32);
  }
  return parse_literal();
}

Constant Parser::parse_literal() {
  std::optional<Constant> value;
  if (token_.kind == TokenKind::integer) {
    value = integer_literal(token_.text);
  } else if (token_.kind == TokenKind::real) {
    value = real_literal(token_.text);
  } else {
    fail_expected("a constant");
    return {};
  }
  if (!value) fail("malformed number '" + std::string(token_.text.substr(0, 60)) + "'");
  advance();
  return value.value_or(Constant{});
}

std::uint64_t Parser::parse_unsigned(std::uint64_t limit, std::string_view what) {
  if (token_.kind != TokenKind::integer) {
    fail_expected(what);
    return 0;
  }
  const Constant value = parse_literal();
  if (value.bits > limit) fail(std::string(what) + " is too large");
  return value.bits;
}

/// `+12` or `-4` behind a name, if there is one.
std::int64_t Parser::parse_offset() {
  if (token_.is('+')) {
    advance();
  } else if (!token_.is('-')) {
    return 0;
  }
  const Constant value = parse_constant(binary_precedence("+"));
  if (value.is_float) fail("an offset that is no integer");
  return static_cast<std::int64_t>(value.bits);
}

void Parser::parse_initializer(Variable& variable) {
  std::vector<std::uint64_t> extents = variable.dims;
  if (variable.vector > 1) extents.push_back(variable.vector);
  if (size_of(variable.type) == 0) {
    // Settings of a texture or sampler: nothing here reads them.
    if (variable.type == Type::pred || !token_.is('{')) fail("this type takes no initializer");
    skip_section();
    return;
  }
  if (extents.empty()) {
    const bool braces = accept('{');
    variable.initializer.push_back(parse_initializer_value(variable));
    if (braces) expect('}');
    return;
  }
  parse_initializer_level(variable, extents, 0, 0);
  if (!variable.dims.empty() && variable.dims[0] == 0) {
    std::uint64_t stride = 1;
    for (std::size_t i = 1; i < extents.size(); ++i) stride *= extents[i];
    if (stride != 0) variable.dims[0] = (variable.initializer.size() + stride - 1) / stride;
  }
}

/// One brace level: elements of extents[level], each again in braces or, at the innermost level, a value.
/// `begin` is the flat index of its first element.
void Parser::parse_initializer_level(Variable& variable, const std::vector<std::uint64_t>& extents,
                                     std::size_t level, std::uint64_t begin) {
  const Nesting nesting(*this);
  std::uint64_t stride = 1;
  for (std::size_t i = level + 1; i < extents.size(); ++i) stride *= extents[i];
  const std::uint64_t room =
      extents[level] != 0 ? extents[level] * stride : std::numeric_limits<std::uint64_t>::max() - begin;
  expect('{');
  std::uint64_t index = begin;
  while (!at_end() && !token_.is('}')) {
    if (index - begin >= room) {
      fail("more initial values than elements");
      return;
    }
    const std::uint64_t missing = index - variable.initializer.size();
    padding_ += missing;
    if (padding_ > max_padding) {
      fail("an initializer with too many elements left out");
      return;
    }
    variable.initializer.resize(index);
    if (token_.is('{') && level + 1 < extents.size()) {
      parse_initializer_level(variable, extents, level + 1, index);
      index += stride;
    } else {
      variable.initializer.push_back(parse_initializer_value(variable));
      ++index;
    }
    if (!accept(',')) break;
  }
  expect('}');
}

Initializer Parser::parse_initializer_value(const Variable& variable) {
  Initializer value;
  if (token_.kind == TokenKind::name && !token_.is_name("WARP_SZ")) {
    parse_symbol(value);
  } else if (token_.kind == TokenKind::integer && lexer_.peek() == '(') {
    // 0xFF00(symbol): one byte of the symbol's address.
    const std::uint64_t mask = parse_literal().bits;
    const int shift = mask == 0 ? 1 : std::countr_zero(mask);
    if (shift % 8 != 0 || mask >> shift != 0xff) fail("a mask that is not 0xFF, 0xFF00, ...");
    value.has_mask = true;
    value.mask_shift = static_cast<std::uint8_t>(shift);
    expect('(');
    parse_symbol(value);
    expect(')');
  } else {
    value.bits = image_of(parse_constant(), variable.type);
  }
  return value;
}

void Parser::parse_symbol(Initializer& value) {
  SymbolRef symbol;
  if (token_.is_name("generic") && lexer_.peek() == '(') {
    value.generic = true;
    advance();
    advance();
    symbol.name = expect_name("a symbol");
    symbol.offset = parse_offset();
    expect(')');
  } else {
    symbol.name = expect_name("a symbol");
  }
  const std::int64_t more = parse_offset();
  symbol.offset =
      static_cast<std::int64_t>(static_cast<std::uint64_t>(symbol.offset) + static_cast<std::uint64_t>(more));
  value.symbol = symbol;
}

}  // namespace softgpu::ptx
