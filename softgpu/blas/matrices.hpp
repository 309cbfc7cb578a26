// The matrices of an operand in device memory, checked one by one before they are touched.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cudaabi/blas_extension.hpp"
#include "softgpu/blas/execute.hpp"

namespace softgpu::blas {

using Shape = cudaabi::BlasShape;

/// Alpha and beta, read.
struct Factors {
  double alpha = 0, beta = 0;
};

// No memory is as large; operands that are said to be are refused before anything overflows.
inline constexpr std::uint64_t impossible = std::uint64_t{1} << 56;

// The bytes from a matrix's first element to its last; 0 when it has none. `leading` and the shape fit into
// 31 bits.
inline std::uint64_t extent(const cudaabi::BlasMatrix& matrix, Shape shape) {
  if (shape.rows == 0 || shape.columns == 0) return 0;
  const auto elements = static_cast<std::uint64_t>((shape.columns - 1) * matrix.leading + shape.rows);
  return std::min(elements, impossible) * cudaabi::blas_element_bytes(matrix.type);
}

// The batch's matrices of one operand, checked before they are handed out.
class Matrices {
 public:
  Matrices(const cudaabi::BlasDescriptor& d, const cudaabi::BlasMatrix& matrix, Shape shape,
           const Accessible& accessible)
      : matrix_(matrix), bytes_(extent(matrix, shape)), accessible_(accessible) {
    if (d.batch == cudaabi::BlasBatch::pointers) {
      const auto table_bytes = static_cast<std::uint64_t>(d.batches) * sizeof(std::uint64_t);
      if (accessible(matrix.address, table_bytes)) {
        table_ = reinterpret_cast<const unsigned char*>(matrix.address);  // NOLINT(performance-no-int-to-ptr)
      } else {
        failed_ = true;
      }
    }
  }

  bool failed() const { return failed_; }

  // The address of matrix `index`, or 0 if it is not all accessible. A matrix of no elements is at any
  // address.
  std::uint64_t at(std::int64_t index) const {
    std::uint64_t address = matrix_.address;
    if (table_ != nullptr) {
      std::memcpy(&address, table_ + index * 8, sizeof address);
    } else {
      // Wraps for absurd strides; the result is checked like any other address.
      address += static_cast<std::uint64_t>(matrix_.stride) * static_cast<std::uint64_t>(index) *
                 cudaabi::blas_element_bytes(matrix_.type);
    }
    if (bytes_ == 0) return address != 0 ? address : 1;
    return address != 0 && bytes_ < impossible && accessible_(address, bytes_) ? address : 0;
  }

 private:
  const cudaabi::BlasMatrix& matrix_;
  std::uint64_t bytes_;
  const Accessible& accessible_;
  const unsigned char* table_ = nullptr;
  bool failed_ = false;
};

template <class T>
T* pointer(std::uint64_t address) {
  return reinterpret_cast<T*>(
      address);  // NOLINT(performance-no-int-to-ptr): device memory is memory of this process
}

}  // namespace softgpu::blas
