#include "softgpu/blas/sum.hpp"

#include <cstring>

#include "cudaabi/blas_number.hpp"
#include "cudaabi/half.hpp"

namespace softgpu::blas {
namespace {

using cudaabi::BlasDescriptor;
using cudaabi::BlasElement;
using cudaabi::BlasMatrix;

// Written from Real: float, or double for f64.
template <class Real>
void put_element(std::uint64_t address, BlasElement type, Real value) {
  void* to = pointer<void>(address);
  if (type == BlasElement::f32 || type == BlasElement::f64) {
    std::memcpy(to, &value, sizeof value);
    return;
  }
  const auto narrow = static_cast<float>(value);
  const std::uint16_t bits =
      type == BlasElement::f16 ? cudaabi::round_f16(narrow) : cudaabi::round_bf16(narrow);
  std::memcpy(to, &bits, sizeof bits);
}

// One of the summands, or nothing if its factor is zero.
template <class Real>
class Summand {
 public:
  Summand(const BlasMatrix& matrix, double factor)
      : type_(matrix.type), factor_(static_cast<Real>(factor)), counts_(factor != 0) {
    const std::uint64_t bytes = cudaabi::blas_element_bytes(matrix.type),
                        leading = static_cast<std::uint64_t>(matrix.leading) * bytes;
    next_row_ = matrix.transpose != 0 ? leading : bytes;
    next_column_ = matrix.transpose != 0 ? bytes : leading;
  }
  Real get(std::uint64_t address, std::int64_t row, std::int64_t column) const {
    if (!counts_) return 0;
    const std::uint64_t at = address + static_cast<std::uint64_t>(row) * next_row_ +
                             static_cast<std::uint64_t>(column) * next_column_;
    return factor_ * cudaabi::read_number<Real>(pointer<const void>(at), type_);
  }

 private:
  BlasElement type_;
  Real factor_;
  bool counts_;
  std::uint64_t next_row_, next_column_;
};

template <class Real>
Status sum_in(const BlasDescriptor& d, Factors factors, const Accessible& accessible) {
  const Shape shape{d.m, d.n};
  // What is not read need not be accessible: the result stands in for it.
  const bool reads_a = factors.alpha != 0, reads_b = factors.beta != 0;
  const Matrices into(d, d.d, shape, accessible),
      a(d, reads_a ? d.a : d.d, reads_a ? cudaabi::blas_shape_a(d) : shape, accessible),
      b(d, reads_b ? d.b : d.d, reads_b ? cudaabi::blas_shape_b(d) : shape, accessible);
  if (a.failed() || b.failed() || into.failed()) return Status::illegal_address;
  const Summand<Real> left(d.a, factors.alpha), right(d.b, factors.beta);
  const std::uint64_t bytes = cudaabi::blas_element_bytes(d.d.type);
  for (std::int64_t i = 0; i < d.batches; ++i) {
    const std::uint64_t at_a = a.at(i), at_b = b.at(i), at_d = into.at(i);
    if (at_a == 0 || at_b == 0 || at_d == 0) return Status::illegal_address;
    for (std::int64_t column = 0; column < d.n; ++column) {
      for (std::int64_t row = 0; row < d.m; ++row) {
        const auto at = static_cast<std::uint64_t>(column * d.d.leading + row) * bytes;
        put_element<Real>(at_d + at, d.d.type, left.get(at_a, row, column) + right.get(at_b, row, column));
      }
    }
  }
  return Status::ok;
}

}  // namespace

Status run_sum(const BlasDescriptor& d, Factors factors, const Accessible& accessible) {
  return d.scalar_type == BlasElement::f64 ? sum_in<double>(d, factors, accessible)
                                           : sum_in<float>(d, factors, accessible);
}

}  // namespace softgpu::blas
