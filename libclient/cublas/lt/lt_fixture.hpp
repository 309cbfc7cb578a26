// For the tests of our libcublasLt: a handle, and cublasLt's descriptors as objects.
#pragma once

#include <cublasLt.h>
#include <cuda.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "cudaabi/half.hpp"
#include "softgpu/blas/execute.hpp"

extern "C" CUstream fake_last_stream();

class CublasLt : public testing::Test {
 protected:
  void SetUp() override {
    if (!softgpu::blas::available()) GTEST_SKIP() << "libopenblas.so.0 is not installed";
    ASSERT_EQ(cublasLtCreate(&handle_), CUBLAS_STATUS_SUCCESS);
  }
  void TearDown() override {
    if (handle_ != nullptr) {
      EXPECT_EQ(cublasLtDestroy(handle_), CUBLAS_STATUS_SUCCESS);
    }
  }
  cublasLtHandle_t handle_ = nullptr;
};

struct Types {
  cudaDataType in = CUDA_R_32F, out = CUDA_R_32F;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cudaDataType scale = CUDA_R_32F;
};
inline constexpr Types supported[] = {{CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F},
                                      {CUDA_R_16F, CUDA_R_16F, CUBLAS_COMPUTE_32F, CUDA_R_32F},
                                      {CUDA_R_16F, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F},
                                      {CUDA_R_16F, CUDA_R_16F, CUBLAS_COMPUTE_16F, CUDA_R_16F},
                                      {CUDA_R_16BF, CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUDA_R_32F},
                                      {CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F},
                                      {CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F, CUDA_R_64F}};

inline double tolerance(cudaDataType type) {
  return type == CUDA_R_64F ? 1e-12 : type == CUDA_R_32F ? 1e-5 : type == CUDA_R_16F ? 2e-3 : 1.6e-2;
}

inline std::size_t bytes_of(cudaDataType type) {
  return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2;
}

inline double read_number(const std::byte* from, cudaDataType type) {
  const auto load = [from](auto value) {
    std::memcpy(&value, from, sizeof value);
    return value;
  };
  if (type == CUDA_R_64F) return load(double{});
  if (type == CUDA_R_32F) return static_cast<double>(load(float{}));
  const auto bits = load(std::uint16_t{});
  return static_cast<double>(type == CUDA_R_16F ? cudaabi::widen_f16(bits) : cudaabi::widen_bf16(bits));
}

inline void write_number(std::byte* to, cudaDataType type, double number) {
  const auto save = [to](auto value) { std::memcpy(to, &value, sizeof value); };
  const auto narrow = static_cast<float>(number);
  if (type == CUDA_R_64F) return save(number);
  if (type == CUDA_R_32F) return save(narrow);
  save(type == CUDA_R_16F ? cudaabi::round_f16(narrow) : cudaabi::round_bf16(narrow));
}

template <class Descriptor, cublasStatus_t (*destroy)(Descriptor*)>
struct Destroyer {
  void operator()(Descriptor* descriptor) const { EXPECT_EQ(destroy(descriptor), CUBLAS_STATUS_SUCCESS); }
};

// A batch of matrices of small numbers, by columns or by rows, `pad` elements between columns or rows.
class Matrix {
 public:
  Matrix(cudaDataType type, int rows, int columns, bool by_rows, int batches, int pad, int seed)
      : type_(type),
        by_rows_(by_rows),
        leading_((by_rows ? columns : rows) + pad),
        stride_(leading_ * (by_rows ? rows : columns) + pad),
        bytes_(static_cast<std::size_t>(stride_ * batches) * bytes_of(type)) {
    cublasLtMatrixLayout_t layout = nullptr;
    EXPECT_EQ(cublasLtMatrixLayoutCreate(&layout, type, static_cast<std::uint64_t>(rows),
                                         static_cast<std::uint64_t>(columns), leading_),
              CUBLAS_STATUS_SUCCESS);
    layout_.reset(layout);
    if (by_rows) set(CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_ORDER_ROW);
    if (batches != 1) {
      set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, batches);
      set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, std::int64_t{stride_});
    }
    for (std::size_t i = 0; i * bytes_of(type) < bytes_.size(); ++i) {
      const auto number = static_cast<double>((i * 7 + static_cast<std::size_t>(seed) * 3) % 9) - 4.0;
      write_number(bytes_.data() + i * bytes_of(type), type, number / 4);
    }
  }
  Matrix(const Matrix& other)
      : type_(other.type_),
        by_rows_(other.by_rows_),
        leading_(other.leading_),
        stride_(other.stride_),
        bytes_(other.bytes_) {}  // the numbers only
  Matrix(Matrix&&) = default;

  template <class T>
  void set(cublasLtMatrixLayoutAttribute_t attribute, T value) const {
    EXPECT_EQ(cublasLtMatrixLayoutSetAttribute(layout(), attribute, &value, sizeof value),
              CUBLAS_STATUS_SUCCESS);
  }
  cublasLtMatrixLayout_t layout() const { return layout_.get(); }
  int leading() const { return leading_; }
  void* data() { return bytes_.data(); }
  const void* data() const { return bytes_.data(); }
  double get(int batch, int row, int column) const {
    const int at = batch * stride_ + (by_rows_ ? row * leading_ + column : column * leading_ + row);
    return read_number(bytes_.data() + static_cast<std::size_t>(at) * bytes_of(type_), type_);
  }

 private:
  cudaDataType type_;
  bool by_rows_;
  int leading_, stride_;
  std::vector<std::byte> bytes_;
  std::unique_ptr<cublasLtMatrixLayoutOpaque_t,
                  Destroyer<cublasLtMatrixLayoutOpaque_t, cublasLtMatrixLayoutDestroy>>
      layout_;
};

class Operation {
 public:
  explicit Operation(const Types& types) {
    cublasLtMatmulDesc_t descriptor = nullptr;
    EXPECT_EQ(cublasLtMatmulDescCreate(&descriptor, types.compute, types.scale), CUBLAS_STATUS_SUCCESS);
    descriptor_.reset(descriptor);
  }
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) const {
    EXPECT_EQ(cublasLtMatmulDescSetAttribute(get(), attribute, &value, sizeof value), CUBLAS_STATUS_SUCCESS);
  }
  cublasLtMatmulDesc_t get() const { return descriptor_.get(); }

 private:
  std::unique_ptr<cublasLtMatmulDescOpaque_t,
                  Destroyer<cublasLtMatmulDescOpaque_t, cublasLtMatmulDescDestroy>>
      descriptor_;
};

class Preference {
 public:
  Preference() {
    cublasLtMatmulPreference_t descriptor = nullptr;
    EXPECT_EQ(cublasLtMatmulPreferenceCreate(&descriptor), CUBLAS_STATUS_SUCCESS);
    descriptor_.reset(descriptor);
  }
  cublasLtMatmulPreference_t get() const { return descriptor_.get(); }

 private:
  std::unique_ptr<cublasLtMatmulPreferenceOpaque_t,
                  Destroyer<cublasLtMatmulPreferenceOpaque_t, cublasLtMatmulPreferenceDestroy>>
      descriptor_;
};

// A factor in the type that the operation's scale has.
class Scalar {
 public:
  Scalar(const Types& types, double value) { write_number(bytes_, types.scale, value); }
  const void* data() const { return bytes_; }

 private:
  alignas(8) std::byte bytes_[8]{};
};
