// Values of PTX's constant expressions: 64-bit integers, signed or unsigned, and floating-point numbers, with
// the operators' rules (PTX ISA, "Constant Expressions"). Knows nothing of tokens beyond a literal's
// spelling.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "softgpu/ptx/ast.hpp"

namespace softgpu::ptx {

/// A constant. A floating-point one holds its IEEE image: 32 bits when is_single, else 64.
struct Constant {
  std::uint64_t bits = 0;
  bool is_unsigned = false;
  bool is_float = false;
  bool is_single = false;

  double as_double() const;
  bool is_true() const;
  static Constant of_double(double value);
  static Constant of_signed(std::int64_t value);
};

/// The value of an integer literal ("0x1F", "017", "0b1U", "42"), or nothing when it is malformed or too
/// large.
std::optional<Constant> integer_literal(std::string_view text);
/// The value of a floating-point literal ("1.5e3", "0f3F800000", "0d3FF0000000000000").
std::optional<Constant> real_literal(std::string_view text);

/// `op` is "-", "+", "!" or "~"; nothing when it does not apply to the value.
std::optional<Constant> apply_unary(char op, Constant value);
/// Nothing for a division by zero or an operator that does not apply.
std::optional<Constant> apply_binary(std::string_view op, Constant left, Constant right);
/// The strength of a binary operator, 1 (`||`) to 10 (`*`); 0 when `op` is none.
int binary_precedence(std::string_view op);

/// The little-endian image of `value` as a variable of `type` holds it.
std::uint64_t image_of(Constant value, Type type);

}  // namespace softgpu::ptx
