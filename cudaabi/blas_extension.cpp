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

BlasCheck check_types(const BlasDescriptor& d) {
  const BlasElement in = d.a.type;
  const auto supported = [](bool yes) { return yes ? BlasCheck::ok : BlasCheck::unsupported; };
  if (d.b.type != in) return BlasCheck::unsupported;
  if (d.operation == BlasOperation::trsm) {
    return supported((in == BlasElement::f32 || in == BlasElement::f64) && d.scalar_type == in);
  }
  const BlasElement out = d.c.type;
  if (in == BlasElement::f64 || out == BlasElement::f64 || d.scalar_type == BlasElement::f64) {
    return supported(in == out && d.scalar_type == in);
  }
  if (d.scalar_type == BlasElement::f32) return supported(out == BlasElement::f32 || out == in);
  return supported(d.scalar_type == BlasElement::f16 && in == BlasElement::f16 && out == BlasElement::f16);
}

}  // namespace

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
  const std::int64_t order = d.right_side != 0 ? d.n : d.m;
  return {order, order};
}

BlasShape blas_shape_b(const BlasDescriptor& d) {
  return d.operation == BlasOperation::gemm ? stored(d.b, d.k, d.n) : BlasShape{d.m, d.n};
}

BlasCheck check_blas(const BlasDescriptor& d) {
  if (d.operation != BlasOperation::gemm && d.operation != BlasOperation::trsm) return BlasCheck::invalid;
  if (d.batch != BlasBatch::strided && d.batch != BlasBatch::pointers) return BlasCheck::invalid;
  if (d.m < 0 || d.n < 0 || d.k < 0 || d.batches < 0) return BlasCheck::invalid;
  if (d.m > largest || d.n > largest || d.k > largest || d.batches > largest) return BlasCheck::unsupported;
  if (blas_element_bytes(d.scalar_type) == 0) return BlasCheck::invalid;
  if (!sensible(d.a, blas_shape_a(d)) || !sensible(d.b, blas_shape_b(d))) return BlasCheck::invalid;
  if (d.operation == BlasOperation::gemm && !sensible(d.c, {d.m, d.n})) return BlasCheck::invalid;
  return check_types(d);
}

}  // namespace cudaabi
