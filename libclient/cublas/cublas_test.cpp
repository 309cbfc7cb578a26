// Our libcublas as a program sees it, over a driver library that computes at once on host memory
// (fake_driver.cpp). What the operations compute is tested in softgpu/blas; here: that every entry point
// describes them rightly.

#include <cublas_api.h>
#include <cuda.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "cudaabi/half.hpp"
#include "softgpu/blas/execute.hpp"

extern "C" CUstream fake_last_stream();

namespace {

class Cublas : public testing::Test {
 protected:
  void SetUp() override {
    if (!softgpu::blas::available()) GTEST_SKIP() << "libopenblas.so.0 is not installed";
    ASSERT_EQ(cublasCreate_v2(&handle_), CUBLAS_STATUS_SUCCESS);
  }
  void TearDown() override {
    if (handle_ != nullptr) {
      EXPECT_EQ(cublasDestroy_v2(handle_), CUBLAS_STATUS_SUCCESS);
    }
  }
  cublasHandle_t handle_ = nullptr;
};

// A = [1 3; 2 4], B = [5 7; 6 8] by columns; the four products that transposition makes of them.
constexpr float a_values[4] = {1, 2, 3, 4}, b_values[4] = {5, 6, 7, 8};
using Four = std::vector<float>;

Four expected(bool transpose_a, bool transpose_b) {
  Four result(4);
  for (std::size_t column = 0; column < 2; ++column) {
    for (std::size_t row = 0; row < 2; ++row) {
      for (std::size_t k = 0; k < 2; ++k) {
        const float x = a_values[transpose_a ? row * 2 + k : k * 2 + row];
        const float y = b_values[transpose_b ? k * 2 + column : column * 2 + k];
        result[column * 2 + row] += x * y;
      }
    }
  }
  return result;
}

template <class T>
std::vector<T> convert(const float (&from)[4], T (*narrow)(float)) {
  std::vector<T> result;
  for (const float value : from) result.push_back(narrow(value));
  return result;
}

TEST_F(Cublas, RefusesUnknownMathModesAndMisalignedWorkspace) {
  EXPECT_EQ(cublasSetMathMode(handle_, CUBLAS_TF32_TENSOR_OP_MATH), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasSetMathMode(handle_, static_cast<cublasMath_t>(9)), CUBLAS_STATUS_INVALID_VALUE);
  cublasMath_t mode = CUBLAS_DEFAULT_MATH;
  EXPECT_EQ(cublasGetMathMode(handle_, &mode), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(mode, CUBLAS_TF32_TENSOR_OP_MATH);
  const auto with_flag =
      static_cast<cublasMath_t>(CUBLAS_PEDANTIC_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
  EXPECT_EQ(cublasSetMathMode(handle_, with_flag), CUBLAS_STATUS_SUCCESS);
  alignas(256) static char workspace[512];
  EXPECT_EQ(cublasSetWorkspace_v2(handle_, workspace, 256), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasSetWorkspace_v2(handle_, workspace + 1, 256), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasSetWorkspace_v2(handle_, nullptr, 0), CUBLAS_STATUS_SUCCESS);
}

TEST_F(Cublas, CreatingAHandleMakesAContextCurrent) {
  CUcontext context = nullptr;
  ASSERT_EQ(cuCtxGetCurrent(&context), CUDA_SUCCESS);
  EXPECT_NE(context, nullptr);
}

TEST_F(Cublas, SgemmTransposesAsTold) {
  const float alpha = 1, beta = 0;
  for (const auto ta : {CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_OP_C}) {
    for (const auto tb : {CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_OP_C}) {
      Four c(4, NAN);
      ASSERT_EQ(
          cublasSgemm_v2(handle_, ta, tb, 2, 2, 2, &alpha, a_values, 2, b_values, 2, &beta, c.data(), 2),
          CUBLAS_STATUS_SUCCESS);
      EXPECT_EQ(c, expected(ta != CUBLAS_OP_N, tb != CUBLAS_OP_N));
    }
  }
}

TEST_F(Cublas, SixtyFourBitNamesDoTheSame) {
  const float alpha = 2, beta = 1;
  Four c(4, 1);
  ASSERT_EQ(cublasSgemm_v2_64(handle_, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &alpha, a_values, 2, b_values, 2,
                              &beta, c.data(), 2),
            CUBLAS_STATUS_SUCCESS);
  Four wanted = expected(false, false);
  for (float& value : wanted) value = 2 * value + 1;
  EXPECT_EQ(c, wanted);
}

TEST_F(Cublas, GemmExTakesHalfPrecisionWithFloatAndHalfSums) {
  const auto a = convert(a_values, cudaabi::round_f16), b = convert(b_values, cudaabi::round_f16);
  const float alpha = 1, beta = 0;
  const std::uint16_t half_alpha = cudaabi::round_f16(1), half_beta = 0;
  Four wide(4);
  std::vector<std::uint16_t> narrow(4), half(4);
  const auto run = [&](const void* x, const void* y, void* c, cudaDataType out, cublasComputeType_t compute) {
    return cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, 2, 2, 2, x, a.data(), CUDA_R_16F, 2, b.data(),
                        CUDA_R_16F, 2, y, c, out, 2, compute, CUBLAS_GEMM_DEFAULT_TENSOR_OP);
  };
  ASSERT_EQ(run(&alpha, &beta, wide.data(), CUDA_R_32F, CUBLAS_COMPUTE_32F), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(run(&alpha, &beta, narrow.data(), CUDA_R_16F, CUBLAS_COMPUTE_32F), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(run(&half_alpha, &half_beta, half.data(), CUDA_R_16F, CUBLAS_COMPUTE_16F), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(wide, expected(true, false));
  EXPECT_EQ(half, narrow);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(cudaabi::widen_f16(narrow[i]), wide[i]);
}

TEST_F(Cublas, GemmExTakesBfloat16) {
  const auto a = convert(a_values, cudaabi::round_bf16), b = convert(b_values, cudaabi::round_bf16);
  const float alpha = 1, beta = 0;
  Four c(4);
  ASSERT_EQ(cublasGemmEx(handle_, CUBLAS_OP_N, CUBLAS_OP_T, 2, 2, 2, &alpha, a.data(), CUDA_R_16BF, 2,
                         b.data(), CUDA_R_16BF, 2, &beta, c.data(), CUDA_R_32F, 2,
                         CUBLAS_COMPUTE_32F_FAST_16BF, CUBLAS_GEMM_DEFAULT),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(c, expected(false, true));
}

TEST_F(Cublas, BatchesGoByStrideAndByPointers) {
  const Four twice_a{1, 2, 3, 4, 2, 4, 6, 8};
  const float alpha = 1, beta = 0;
  Four by_stride(8), by_pointer(8), ex(8), ex_pointer(8);
  const float* a[2] = {twice_a.data(), twice_a.data() + 4};
  const float* b[2] = {b_values, b_values};
  float* c[2] = {by_pointer.data(), by_pointer.data() + 4};
  ASSERT_EQ(cublasSgemmStridedBatched(handle_, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &alpha, twice_a.data(), 2,
                                      4, b_values, 2, 0, &beta, by_stride.data(), 2, 4, 2),
            CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(
      cublasSgemmBatched(handle_, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &alpha, a, 2, b, 2, &beta, c, 2, 2),
      CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(
      cublasGemmStridedBatchedEx(handle_, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &alpha, twice_a.data(),
                                 CUDA_R_32F, 2, 4, b_values, CUDA_R_32F, 2, 0, &beta, ex.data(), CUDA_R_32F,
                                 2, 4, 2, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_GEMM_DEFAULT),
      CUBLAS_STATUS_SUCCESS);
  const void* const* va = reinterpret_cast<const void* const*>(a);
  const void* const* vb = reinterpret_cast<const void* const*>(b);
  void* vc[2] = {ex_pointer.data(), ex_pointer.data() + 4};
  ASSERT_EQ(cublasGemmBatchedEx(handle_, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &alpha, va, CUDA_R_32F, 2, vb,
                                CUDA_R_32F, 2, &beta, vc, CUDA_R_32F, 2, 2, CUBLAS_COMPUTE_32F,
                                CUBLAS_GEMM_DEFAULT),
            CUBLAS_STATUS_SUCCESS);
  Four wanted = expected(false, false);
  for (std::size_t i = 0; i < 4; ++i) wanted.push_back(2 * wanted[i]);
  EXPECT_EQ(by_stride, wanted);
  EXPECT_EQ(by_pointer, wanted);
  EXPECT_EQ(ex, wanted);
  EXPECT_EQ(ex_pointer, wanted);
}

TEST_F(Cublas, MatrixTimesVectorWithGaps) {
  // op(A) x for A 2 x 3 by columns, x with gaps of one, y with gaps of two.
  const float a[6] = {1, 2, 3, 4, 5, 6}, x[6] = {1, 0, 2, 0, 3, 0}, alpha = 1, beta = 10;
  float y[6] = {1, -1, -1, 1, -1, -1};
  ASSERT_EQ(cublasSgemv_v2(handle_, CUBLAS_OP_N, 2, 3, &alpha, a, 2, x, 2, &beta, y, 3),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(std::vector<float>(y, y + 6), (std::vector<float>{32, -1, -1, 38, -1, -1}));
  float z[3] = {0, 0, 0};
  ASSERT_EQ(cublasSgemv_v2(handle_, CUBLAS_OP_T, 2, 3, &alpha, a, 2, x, 2, &beta, z, 1),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(std::vector<float>(z, z + 3), (std::vector<float>{5, 11, 17}));
}

TEST_F(Cublas, StrsmBatchedSolvesFromTheRight) {
  // X U = B with U upper triangular, as ggml asks for it.
  const float u[4] = {2, 99, 1, 4}, alpha = 1;
  float b[2] = {6, 11};  // one row: x = {3, 2}
  const float* a_table[1] = {u};
  float* b_table[1] = {b};
  ASSERT_EQ(cublasStrsmBatched(handle_, CUBLAS_SIDE_RIGHT, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_N,
                               CUBLAS_DIAG_NON_UNIT, 1, 2, &alpha, a_table, 2, b_table, 1, 1),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(b[0], 3.0F);
  EXPECT_EQ(b[1], 2.0F);
}

TEST_F(Cublas, WorkGoesIntoTheHandlesStream) {
  const float alpha = 1, beta = 0;
  float c[4];
  auto* stream = reinterpret_cast<cudaStream_t>(0x1234);
  ASSERT_EQ(cublasSetStream_v2(handle_, stream), CUBLAS_STATUS_SUCCESS);
  cudaStream_t back = nullptr;
  ASSERT_EQ(cublasGetStream_v2(handle_, &back), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(back, stream);
  ASSERT_EQ(cublasSgemm_v2(handle_, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &alpha, a_values, 2, b_values, 2,
                           &beta, c, 2),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(fake_last_stream(), reinterpret_cast<CUstream>(stream));
}

TEST_F(Cublas, DevicePointerModeReadsFactorsWhenTheProductRuns) {
  const float alpha = 3, beta = 0;
  Four c(4);
  ASSERT_EQ(cublasSetPointerMode_v2(handle_, CUBLAS_POINTER_MODE_DEVICE), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cublasSgemm_v2(handle_, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &alpha, a_values, 2, b_values, 2,
                           &beta, c.data(), 2),
            CUBLAS_STATUS_SUCCESS);
  Four wanted = expected(false, false);
  for (float& value : wanted) value *= 3;
  EXPECT_EQ(c, wanted);
}

TEST_F(Cublas, WhatIsNotSupportedSaysSo) {
  const std::int8_t a[4] = {}, b[4] = {};
  const std::int32_t alpha = 1, beta = 0;
  std::int32_t c[4];
  EXPECT_EQ(cublasGemmEx(handle_, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &alpha, a, CUDA_R_8I, 2, b, CUDA_R_8I, 2,
                         &beta, c, CUDA_R_32I, 2, CUBLAS_COMPUTE_32I, CUBLAS_GEMM_DEFAULT),
            CUBLAS_STATUS_NOT_SUPPORTED);
  const cuComplex one{1, 0};
  EXPECT_EQ(
      cublasCgemm_v2(handle_, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, &one, 1, &one, 1, &one, nullptr, 1),
      CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST_F(Cublas, WrongArgumentsAreRefusedAtTheCall) {
  const float alpha = 1, beta = 0;
  float c[4];
  const auto run = [&](cublasHandle_t handle, int m, int lda, const float* factor, int operation) {
    return cublasSgemm_v2(handle, static_cast<cublasOperation_t>(operation), CUBLAS_OP_N, m, 2, 2, factor,
                          a_values, lda, b_values, 2, &beta, c, 2);
  };
  EXPECT_EQ(run(handle_, 2, 2, &alpha, CUBLAS_OP_N), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(run(nullptr, 2, 2, &alpha, CUBLAS_OP_N), CUBLAS_STATUS_NOT_INITIALIZED);
  EXPECT_EQ(run(handle_, -2, 2, &alpha, CUBLAS_OP_N), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(run(handle_, 2, 1, &alpha, CUBLAS_OP_N), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(run(handle_, 2, 2, nullptr, CUBLAS_OP_N), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(run(handle_, 2, 2, &alpha, 7), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(run(handle_, 0, 2, &alpha, CUBLAS_OP_N), CUBLAS_STATUS_SUCCESS);
}

}  // namespace
