#include "softgpu/blas/execute.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

#include "cudaabi/blas_number.hpp"
#include "cudaabi/half.hpp"
#include "softgpu/blas/finish.hpp"
#include "softgpu/blas/matrices.hpp"
#include "softgpu/blas/openblas.hpp"
#include "softgpu/blas/sum.hpp"

namespace softgpu::blas {
namespace {

using cudaabi::BlasDescriptor;
using cudaabi::BlasElement;
using cudaabi::BlasMatrix;
using cudaabi::BlasOperation;
using cudaabi::BlasScalar;
using cudaabi::round_bf16;
using cudaabi::round_f16;
using cudaabi::widen_bf16;
using cudaabi::widen_f16;

using cudaabi::blas_element_bytes;
using cudaabi::blas_shape_a;
using cudaabi::blas_shape_b;
bool read_scalar(const BlasScalar& scalar, BlasElement type, const Accessible& accessible, double& out) {
  if (scalar.address == 0) {
    out = scalar.value;
    return true;
  }
  if (!accessible(scalar.address, blas_element_bytes(type))) return false;
  out = cudaabi::read_number<double>(pointer<const void>(scalar.address), type);
  return true;
}

// A matrix widened to f32, densely packed; keeps the last one, since batches often share an operand.
class Widened {
 public:
  const float* of(std::uint64_t address, const BlasMatrix& matrix, Shape shape) {
    if (address == address_) return values_.get();
    if (!values_)
      values_ = std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(shape.rows * shape.columns));
    const auto* from = pointer<const std::uint16_t>(address);
    float* to = values_.get();
    for (std::int64_t column = 0; column < shape.columns;
         ++column, from += matrix.leading, to += shape.rows) {
      if (matrix.type == BlasElement::f16) {
        std::transform(from, from + shape.rows, to, widen_f16);
      } else {
        std::transform(from, from + shape.rows, to, widen_bf16);
      }
    }
    address_ = address;
    return values_.get();
  }

 private:
  std::uint64_t address_ = 0;
  std::unique_ptr<float[]> values_;
};

// D = round(finish(product + beta C)), without reading C when beta is zero.
void store_half(const float* product, Shape shape, float beta, const BlasMatrix& from, std::uint64_t at_c,
                const BlasMatrix& into, std::uint64_t at_d, const Finish<float>& finish) {
  const auto* old = pointer<const std::uint16_t>(at_c);
  auto* to = pointer<std::uint16_t>(at_d);
  const bool f16 = into.type == BlasElement::f16;
  for (std::int64_t column = 0; column < shape.columns; ++column) {
    for (std::int64_t row = 0; row < shape.rows; ++row) {
      float value = product[row];
      if (beta != 0.0F) value += beta * (f16 ? widen_f16(old[row]) : widen_bf16(old[row]));
      value = finish(value, row, column);
      to[row] = f16 ? round_f16(value) : round_bf16(value);
    }
    product += shape.rows, to += into.leading;
    if (beta != 0.0F) old += from.leading;
  }
}

// D = C; of one type.
void copy_matrix(Shape shape, const BlasMatrix& from, std::uint64_t at_c, const BlasMatrix& into,
                 std::uint64_t at_d) {
  const std::uint64_t bytes = blas_element_bytes(into.type);
  for (std::int64_t column = 0; column < shape.columns; ++column) {
    std::memmove(pointer<void>(at_d), pointer<const void>(at_c),
                 static_cast<std::size_t>(shape.rows) * bytes);
    at_c += static_cast<std::uint64_t>(from.leading) * bytes;
    at_d += static_cast<std::uint64_t>(into.leading) * bytes;
  }
}

template <class Real>
void finish_matrix(Shape shape, const BlasMatrix& matrix, std::uint64_t address, const Finish<Real>& finish) {
  if (finish.does_nothing()) return;
  Real* at = pointer<Real>(address);
  for (std::int64_t column = 0; column < shape.columns; ++column, at += matrix.leading) {
    for (std::int64_t row = 0; row < shape.rows; ++row) at[row] = finish(at[row], row, column);
  }
}

int transposition(const BlasMatrix& matrix) {
  return matrix.transpose != 0 ? OpenBlas::transpose : OpenBlas::no_transpose;
}

// The checked addresses of one product; `bias` is 0 where there is none.
struct Addresses {
  std::uint64_t a, b, c, d, bias;
};

// One matrix product on checked addresses; the buffers live for the whole batch. Real: in what is summed.
template <class Real>
class Product {
 public:
  Product(const BlasDescriptor& d, const OpenBlas& library, Factors factors)
      : d_(d),
        library_(library),
        factors_(factors),
        wide_(blas_element_bytes(d.a.type) == 2),
        half_(blas_element_bytes(d.d.type) == 2),
        finish_(d) {}

  void run(const Addresses& at) {
    if (at.bias != 0) finish_.read_bias(at.bias);
    const Shape shape{d_.m, d_.n};
    const auto beta = static_cast<Real>(factors_.beta);
    if constexpr (std::is_same_v<Real, float>) {
      if (half_) {
        if (!product_)
          product_ = std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(d_.m * d_.n));
        multiply(at, 0, product_.get(), d_.m);
        store_half(product_.get(), shape, beta, d_.c, at.c, d_.d, at.d, finish_);
        return;
      }
    }
    if (beta != 0 && (at.c != at.d || d_.c.leading != d_.d.leading)) {
      copy_matrix(shape, d_.c, at.c, d_.d, at.d);
    }
    multiply(at, beta, pointer<Real>(at.d), d_.d.leading);
    finish_matrix(shape, d_.d, at.d, finish_);
  }

 private:
  // out = alpha op(A) op(B) + beta out
  void multiply(const Addresses& at, Real beta, Real* out, std::int64_t leading) {
    const int m = static_cast<int>(d_.m), n = static_cast<int>(d_.n), k = static_cast<int>(d_.k),
              ldd = static_cast<int>(leading);
    const auto alpha = static_cast<Real>(factors_.alpha);
    if constexpr (std::is_same_v<Real, double>) {
      library_.dgemm(OpenBlas::column_major, transposition(d_.a), transposition(d_.b), m, n, k, alpha,
                     pointer<const double>(at.a), static_cast<int>(d_.a.leading), pointer<const double>(at.b),
                     static_cast<int>(d_.b.leading), beta, out, ldd);
    } else {
      const Shape sa = blas_shape_a(d_), sb = blas_shape_b(d_);
      const float* left = wide_ ? a_.of(at.a, d_.a, sa) : pointer<const float>(at.a);
      const float* right = wide_ ? b_.of(at.b, d_.b, sb) : pointer<const float>(at.b);
      const int lda = static_cast<int>(wide_ ? std::max<std::int64_t>(1, sa.rows) : d_.a.leading);
      const int ldb = static_cast<int>(wide_ ? std::max<std::int64_t>(1, sb.rows) : d_.b.leading);
      library_.sgemm(OpenBlas::column_major, transposition(d_.a), transposition(d_.b), m, n, k, alpha, left,
                     lda, right, ldb, beta, out, ldd);
    }
  }

  const BlasDescriptor& d_;
  const OpenBlas& library_;
  const Factors factors_;
  const bool wide_, half_;  ///< A and B, or D, in 16 bits
  Finish<Real> finish_;
  Widened a_, b_;
  std::unique_ptr<float[]> product_;
};

template <class Real>
Status run_gemm(const BlasDescriptor& d, const OpenBlas& library, Factors factors,
                const Accessible& accessible) {
  const bool reads_c = factors.beta != 0;
  // The bias vectors lie one after the other by their stride, however the matrices do.
  BlasDescriptor strided;
  const BlasMatrix vector{d.bias.address, 0, d.bias.stride, d.bias.type};
  const Matrices a(d, d.a, blas_shape_a(d), accessible), b(d, d.b, blas_shape_b(d), accessible),
      into(d, d.d, {d.m, d.n}, accessible), from(d, reads_c ? d.c : d.d, {d.m, d.n}, accessible),
      bias(strided, vector, {d.bias.to_rows != 0 ? d.n : d.m, 1}, accessible);
  if (a.failed() || b.failed() || into.failed() || from.failed()) return Status::illegal_address;
  Product<Real> product(d, library, factors);
  for (std::int64_t i = 0; i < d.batches; ++i) {
    const bool biased = d.bias.address != 0;
    const Addresses at{a.at(i), b.at(i), from.at(i), into.at(i), biased ? bias.at(i) : 0};
    if (at.a == 0 || at.b == 0 || at.c == 0 || at.d == 0 || (biased && at.bias == 0))
      return Status::illegal_address;
    product.run(at);
  }
  return Status::ok;
}

Status run_trsm(const BlasDescriptor& d, const OpenBlas& library, double alpha,
                const Accessible& accessible) {
  const Matrices a(d, d.a, blas_shape_a(d), accessible), b(d, d.b, blas_shape_b(d), accessible);
  if (a.failed() || b.failed()) return Status::illegal_address;
  const int side = d.right_side != 0 ? OpenBlas::right : OpenBlas::left;
  const int fill = d.upper != 0 ? OpenBlas::upper : OpenBlas::lower;
  const int diagonal = d.unit_diagonal != 0 ? OpenBlas::unit : OpenBlas::non_unit;
  const int m = static_cast<int>(d.m), n = static_cast<int>(d.n);
  const int lda = static_cast<int>(d.a.leading), ldb = static_cast<int>(d.b.leading);
  for (std::int64_t i = 0; i < d.batches; ++i) {
    const std::uint64_t at_a = a.at(i), at_b = b.at(i);
    if (at_a == 0 || at_b == 0) return Status::illegal_address;
    if (d.a.type == BlasElement::f64) {
      library.dtrsm(OpenBlas::column_major, side, fill, transposition(d.a), diagonal, m, n, alpha,
                    pointer<const double>(at_a), lda, pointer<double>(at_b), ldb);
    } else {
      library.strsm(OpenBlas::column_major, side, fill, transposition(d.a), diagonal, m, n,
                    static_cast<float>(alpha), pointer<const float>(at_a), lda, pointer<float>(at_b), ldb);
    }
  }
  return Status::ok;
}

}  // namespace

bool available() {
  return openblas() != nullptr;
}

Status execute(const BlasDescriptor& d, const Accessible& accessible) {
  switch (cudaabi::check_blas(d)) {
    case cudaabi::BlasCheck::ok:
      break;
    case cudaabi::BlasCheck::invalid:
      return Status::invalid;
    case cudaabi::BlasCheck::unsupported:
      return Status::unsupported;
  }
  const OpenBlas* library = openblas();
  if (library == nullptr) return Status::unsupported;
  if (d.m == 0 || d.n == 0 || d.batches == 0) return Status::ok;
  Factors factors;
  if (!read_scalar(d.alpha, d.scalar_type, accessible, factors.alpha) ||
      !read_scalar(d.beta, d.scalar_type, accessible, factors.beta)) {
    return Status::illegal_address;
  }
  try {
    if (d.operation == BlasOperation::sum) return run_sum(d, factors, accessible);
    if (d.operation == BlasOperation::trsm) return run_trsm(d, *library, factors.alpha, accessible);
    return d.d.type == BlasElement::f64 ? run_gemm<double>(d, *library, factors, accessible)
                                        : run_gemm<float>(d, *library, factors, accessible);
  } catch (const std::bad_alloc&) {
    return Status::out_of_memory;
  }
}

}  // namespace softgpu::blas
