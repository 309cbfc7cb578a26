// What each element of a product gets after its sum: its bias and the activation function. Never: asks
// whether memory may be touched; the caller has.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "cudaabi/blas_extension.hpp"
#include "cudaabi/blas_number.hpp"

namespace softgpu::blas {

/// For products in Real: float, or double for f64.
template <class Real>
class Finish {
 public:
  explicit Finish(const cudaabi::BlasDescriptor& d) : bias_(d.bias), activation_(d.activation) {
    if (d.bias.address != 0) values_.resize(static_cast<std::size_t>(d.bias.to_rows != 0 ? d.n : d.m));
  }

  bool does_nothing() const { return values_.empty() && activation_ == cudaabi::BlasActivation::none; }

  /// Reads the bias vector at this address; not without one.
  void read_bias(std::uint64_t address) {
    const std::uint64_t bytes = cudaabi::blas_element_bytes(bias_.type);
    for (std::size_t i = 0; i < values_.size(); ++i) {
      // NOLINTNEXTLINE(performance-no-int-to-ptr): device memory is memory of this process
      const void* from = reinterpret_cast<const void*>(address + i * bytes);
      values_[i] = cudaabi::read_number<Real>(from, bias_.type);
    }
  }

  Real operator()(Real sum, std::int64_t row, std::int64_t column) const {
    if (!values_.empty()) sum += values_[static_cast<std::size_t>(bias_.to_rows != 0 ? column : row)];
    switch (activation_) {
      case cudaabi::BlasActivation::relu:
        return sum > 0 ? sum : 0;
      case cudaabi::BlasActivation::gelu:
        return gelu(sum);
      case cudaabi::BlasActivation::none:
        break;
    }
    return sum;
  }

 private:
  static Real gelu(Real x) {
    constexpr Real root = Real(0.7978845608028654);  // of 2 / pi
    return x / 2 * (1 + std::tanh(root * (x + Real(0.044715) * x * x * x)));
  }

  const cudaabi::BlasBias bias_;
  const cudaabi::BlasActivation activation_;
  std::vector<Real> values_;
};

}  // namespace softgpu::blas
