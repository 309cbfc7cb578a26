// One number of a matrix operation, as it lies in memory. Never: asks whether the memory may be read.
#pragma once

#include <cstdint>
#include <cstring>

#include "cudaabi/blas_extension.hpp"
#include "cudaabi/half.hpp"

namespace cudaabi {

/// The number at `from`, which need not be aligned, in Real: float or double.
template <class Real>
Real read_number(const void* from, BlasElement type) {
  const auto load = [from](auto value) {
    std::memcpy(&value, from, sizeof value);
    return value;
  };
  switch (type) {
    case BlasElement::f64:
      return static_cast<Real>(load(double{}));
    case BlasElement::f32:
      return static_cast<Real>(load(float{}));
    case BlasElement::f16:
      return static_cast<Real>(widen_f16(load(std::uint16_t{})));
    case BlasElement::bf16:
      break;
  }
  return static_cast<Real>(widen_bf16(load(std::uint16_t{})));
}

}  // namespace cudaabi
