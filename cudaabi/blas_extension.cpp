#include "cudaabi/blas_extension.hpp"

#include <algorithm>
#include <limits>

namespace cudaabi {
namespace {

constexpr std::int64_t largest = std::numeric_limits<int>::max();

BlasShape stored(const BlasMatrix& matrix, std::int64_t rows, std::int64_t columns) {
  return matrix.transpose != 0 ? BlasShape{columns, rows} : BlasShape{rows, columns};
}

bool sensible(const BlasMatrix& matrix, BlasShape shape) {
  return blas_element_bytes(matrix.type) != 0 && matrix.transpose <= 1 && matrix.leading <= largest &&
         matrix.leading >= std::max<std::int64_t>(1, shape.rows);
}

// Sums are made in the factors' type, from and to any type that is no wider.
BlasCheck check_sum_types(const BlasDescriptor& d) {
  const bool wide = d.scalar_type == BlasElement::f64;
  const auto fits = [wide](const BlasMatrix& matrix) { return (matrix.type == BlasElement::f64) == wide; };
  return (wide || d.scalar_type == BlasElement::f32) && fits(d.a) && fits(d.b) && fits(d.d)
             ? BlasCheck::ok
             : BlasCheck::unsupported;
}

BlasCheck check_types(const BlasDescriptor& d) {
  if (d.operation == BlasOperation::sum) return check_sum_types(d);
  const BlasElement in = d.a.type;
  const auto supported = [](bool yes) { return yes ? BlasCheck::ok : BlasCheck::unsupported; };
  if (d.b.type != in) return BlasCheck::unsupported;
  if (d.operation == BlasOperation::trsm) {
    return supported((in == BlasElement::f32 || in == BlasElement::f64) && d.scalar_type == in);
  }
  const BlasElement out = d.d.type;
  if (d.c.type != out) return BlasCheck::unsupported;
  if (d.bias.address != 0 && (d.bias.type == BlasElement::f64) != (out == BlasElement::f64)) {
    return BlasCheck::unsupported;
  }
  if (in == BlasElement::f64 || out == BlasElement::f64 || d.scalar_type == BlasElement::f64) {
    return supported(in == out && d.scalar_type == in);
  }
  if (d.scalar_type == BlasElement::f32) return supported(out == BlasElement::f32 || out == in);
  return supported(d.scalar_type == BlasElement::f16 && in == BlasElement::f16 && out == BlasElement::f16);
}

// What only products have; all of it must be absent elsewhere.
bool sensible_ending(const BlasDescriptor& d) {
  if (d.reserved != 0 || d.bias.to_rows > 1 || blas_element_bytes(d.bias.type) == 0) return false;
  if (d.activation != BlasActivation::none && d.activation != BlasActivation::relu &&
      d.activation != BlasActivation::gelu) {
    return false;
  }
  return d.operation == BlasOperation::gemm || (d.activation == BlasActivation::none && d.bias.address == 0);
}

// C is read and D written: at one address they must be one matrix.
bool sensible_result(const BlasDescriptor& d) {
  const BlasShape shape{d.m, d.n};
  if (!sensible(d.c, shape) || !sensible(d.d, shape) || d.c.transpose != 0 || d.d.transpose != 0)
    return false;
  return d.c.address != d.d.address || d.c.address == 0 || blas_in_place(d);
}

}  // namespace

bool blas_in_place(const BlasDescriptor& d) {
  return d.c.address == d.d.address && d.c.leading == d.d.leading && d.c.type == d.d.type &&
         (d.batch == BlasBatch::pointers || d.batches == 1 || d.c.stride == d.d.stride);
}

std::uint64_t blas_element_bytes(BlasElement type) {
  switch (type) {
    case BlasElement::f32:
      return 4;
    case BlasElement::f16:
    case BlasElement::bf16:
      return 2;
    case BlasElement::f64:
      return 8;
  }
  return 0;
}

BlasShape blas_shape_a(const BlasDescriptor& d) {
  if (d.operation == BlasOperation::gemm) return stored(d.a, d.m, d.k);
  if (d.operation == BlasOperation::sum) return stored(d.a, d.m, d.n);
  const std::int64_t order = d.right_side != 0 ? d.n : d.m;
  return {order, order};
}

BlasShape blas_shape_b(const BlasDescriptor& d) {
  if (d.operation == BlasOperation::trsm) return {d.m, d.n};
  return stored(d.b, d.operation == BlasOperation::gemm ? d.k : d.m, d.n);
}

BlasCheck check_blas(const BlasDescriptor& d) {
  if (d.operation != BlasOperation::gemm && d.operation != BlasOperation::trsm &&
      d.operation != BlasOperation::sum) {
    return BlasCheck::invalid;
  }
  if (d.batch != BlasBatch::strided && d.batch != BlasBatch::pointers) return BlasCheck::invalid;
  if (d.m < 0 || d.n < 0 || d.k < 0 || d.batches < 0) return BlasCheck::invalid;
  if (d.m > largest || d.n > largest || d.k > largest || d.batches > largest) return BlasCheck::unsupported;
  if (blas_element_bytes(d.scalar_type) == 0) return BlasCheck::invalid;
  if (!sensible(d.a, blas_shape_a(d)) || !sensible(d.b, blas_shape_b(d))) return BlasCheck::invalid;
  if (d.operation == BlasOperation::gemm && !sensible_result(d)) return BlasCheck::invalid;
  if (d.operation == BlasOperation::sum && (!sensible(d.d, {d.m, d.n}) || d.d.transpose != 0))
    return BlasCheck::invalid;
  if (!sensible_ending(d)) return BlasCheck::invalid;
  return check_types(d);
}

}  // namespace cudaabi
