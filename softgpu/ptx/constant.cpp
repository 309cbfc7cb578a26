#include "softgpu/ptx/constant.hpp"

#include <bit>
#include <charconv>
#include <cmath>
#include <limits>

namespace softgpu::ptx {
namespace {

/// Rounds to nearest even to a format with `exponent_bits` and `fraction_bits` (f16, bf16). Exact via
/// integers.
std::uint64_t narrow(double value, int exponent_bits, int fraction_bits) {
  const std::uint64_t sign = std::signbit(value) ? std::uint64_t{1} << (exponent_bits + fraction_bits) : 0;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const std::uint64_t infinity = ((std::uint64_t{1} << exponent_bits) - 1) << fraction_bits;
  if (std::isnan(value)) return sign | infinity | (std::uint64_t{1} << (fraction_bits - 1));
  const double magnitude = std::fabs(value);
  if (std::isinf(value)) return sign | infinity;
  if (magnitude == 0) return sign;
  int exponent = std::ilogb(magnitude);
  if (exponent < 1 - bias) exponent = 1 - bias;
  if (exponent > bias + 1) return sign | infinity;
  const double scaled = std::nearbyint(std::ldexp(magnitude, fraction_bits - exponent));
  const auto fraction = static_cast<std::uint64_t>(scaled);
  // A fraction that rounds up to the next power of two carries into the exponent by itself.
  const std::uint64_t biased = static_cast<std::uint64_t>(exponent + bias - 1) << fraction_bits;
  const std::uint64_t image = biased + fraction;
  return sign | (image > infinity ? infinity : image);
}

std::optional<Constant> binary_float(std::string_view op, double a, double b) {
  if (op == "+") return Constant::of_double(a + b);
  if (op == "-") return Constant::of_double(a - b);
  if (op == "*") return Constant::of_double(a * b);
  if (op == "/") return Constant::of_double(a / b);
  if (op == "<") return Constant::of_signed(a < b);
  if (op == ">") return Constant::of_signed(a > b);
  if (op == "<=") return Constant::of_signed(a <= b);
  if (op == ">=") return Constant::of_signed(a >= b);
  if (op == "==") return Constant::of_signed(a == b);
  if (op == "!=") return Constant::of_signed(a != b);
  return std::nullopt;
}

std::optional<std::uint64_t> divide(bool remainder, bool is_unsigned, std::uint64_t a, std::uint64_t b) {
  if (b == 0) return std::nullopt;
  if (is_unsigned) return remainder ? a % b : a / b;
  const auto x = static_cast<std::int64_t>(a);
  const auto y = static_cast<std::int64_t>(b);
  if (y == -1) return remainder ? 0 : 0 - a;
  return static_cast<std::uint64_t>(remainder ? x % y : x / y);
}

std::uint64_t shift_right(std::uint64_t value, bool is_unsigned, std::uint64_t by) {
  if (is_unsigned) return by > 63 ? 0 : value >> by;
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(value) >> (by > 63 ? 63 : by));
}

}  // namespace

double Constant::as_double() const {
  if (is_float) {
    return is_single ? static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits)))
                     : std::bit_cast<double>(bits);
  }
  return is_unsigned ? static_cast<double>(bits) : static_cast<double>(static_cast<std::int64_t>(bits));
}

bool Constant::is_true() const {
  return is_float ? as_double() != 0 : bits != 0;
}

Constant Constant::of_double(double value) {
  return {std::bit_cast<std::uint64_t>(value), false, true, false};
}

Constant Constant::of_signed(std::int64_t value) {
  return {static_cast<std::uint64_t>(value), false, false, false};
}

std::optional<Constant> integer_literal(std::string_view text) {
  Constant result;
  if (!text.empty() && text.back() == 'U') {
    result.is_unsigned = true;
    text.remove_suffix(1);
  }
  int base = 10;
  if (text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.size() > 2 && text[0] == '0' && (text[1] == 'b' || text[1] == 'B')) {
    base = 2;
    text.remove_prefix(2);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
    text.remove_prefix(1);
  }
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result.bits, base);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  if (result.bits > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    result.is_unsigned = true;
  return result;
}

std::optional<Constant> real_literal(std::string_view text) {
  Constant result;
  result.is_float = true;
  if (text.size() > 2 && text[0] == '0' && std::string_view("fFdD").find(text[1]) != std::string_view::npos) {
    result.is_single = text[1] == 'f' || text[1] == 'F';
    const auto [end, error] = std::from_chars(text.data() + 2, text.data() + text.size(), result.bits, 16);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return result;
  }
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return std::nullopt;
  const std::string_view rest(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (!rest.empty() && rest != ".") return std::nullopt;
  return Constant::of_double(value);
}

std::optional<Constant> apply_unary(char op, Constant value) {
  if (op == '+') return value;
  if (op == '!') return Constant::of_signed(!value.is_true());
  if (value.is_float) {
    if (op != '-') return std::nullopt;
    value.bits ^= value.is_single ? std::uint64_t{1} << 31 : std::uint64_t{1} << 63;
    return value;
  }
  value.bits = op == '-' ? 0 - value.bits : ~value.bits;
  // 9223372036854775808 is unsigned by its size, its negation the smallest signed value.
  if (op == '-' && value.bits == std::uint64_t{1} << 63) value.is_unsigned = false;
  return value;
}

std::optional<Constant> apply_binary(std::string_view op, Constant left, Constant right) {
  if (op == "&&") return Constant::of_signed(left.is_true() && right.is_true());
  if (op == "||") return Constant::of_signed(left.is_true() || right.is_true());
  if (left.is_float || right.is_float) return binary_float(op, left.as_double(), right.as_double());
  const std::uint64_t a = left.bits;
  const std::uint64_t b = right.bits;
  const bool uns = left.is_unsigned || right.is_unsigned;
  const auto less = [uns](std::uint64_t x, std::uint64_t y) {
    return uns ? x < y : static_cast<std::int64_t>(x) < static_cast<std::int64_t>(y);
  };
  const auto integer = [uns](std::uint64_t bits) { return Constant{bits, uns, false, false}; };
  if (op == "+") return integer(a + b);
  if (op == "-") return integer(a - b);
  if (op == "*") return integer(a * b);
  if (op == "&") return integer(a & b);
  if (op == "|") return integer(a | b);
  if (op == "^") return integer(a ^ b);
  if (op == "<<") return Constant{b > 63 ? 0 : a << b, left.is_unsigned, false, false};
  if (op == ">>") return Constant{shift_right(a, left.is_unsigned, b), left.is_unsigned, false, false};
  if (op == "<") return Constant::of_signed(less(a, b));
  if (op == ">") return Constant::of_signed(less(b, a));
  if (op == "<=") return Constant::of_signed(!less(b, a));
  if (op == ">=") return Constant::of_signed(!less(a, b));
  if (op == "==") return Constant::of_signed(a == b);
  if (op == "!=") return Constant::of_signed(a != b);
  if (op == "/" || op == "%") {
    if (const auto quotient = divide(op == "%", uns, a, b)) return integer(*quotient);
  }
  return std::nullopt;
}

int binary_precedence(std::string_view op) {
  struct Row {
    std::string_view op;
    int precedence;
  };
  static constexpr Row rows[] = {{"||", 1}, {"&&", 2}, {"|", 3}, {"^", 4},  {"&", 5},  {"==", 6},
                                 {"!=", 6}, {"<", 7},  {">", 7}, {"<=", 7}, {">=", 7}, {"<<", 8},
                                 {">>", 8}, {"+", 9},  {"-", 9}, {"*", 10}, {"/", 10}, {"%", 10}};
  for (const Row& row : rows) {
    if (row.op == op) return row.precedence;
  }
  return 0;
}

std::uint64_t image_of(Constant value, Type type) {
  switch (type) {
    case Type::f64:
      return value.is_float && !value.is_single ? value.bits
                                                : std::bit_cast<std::uint64_t>(value.as_double());
    case Type::f32:
    case Type::tf32:
      if (value.is_single) return value.bits;
      return std::bit_cast<std::uint32_t>(static_cast<float>(value.as_double()));
    case Type::f16:
      return value.is_float ? narrow(value.as_double(), 5, 10) : value.bits & 0xffffU;
    case Type::bf16:
      return value.is_float ? narrow(value.as_double(), 8, 7) : value.bits & 0xffffU;
    default:
      break;
  }
  const std::uint32_t bytes = size_of(type);
  if (value.is_float && !value.is_single && bytes == 4) {
    return std::bit_cast<std::uint32_t>(static_cast<float>(value.as_double()));
  }
  return bytes == 0 || bytes >= 8 ? value.bits : value.bits & ((std::uint64_t{1} << (8 * bytes)) - 1);
}

}  // namespace softgpu::ptx
