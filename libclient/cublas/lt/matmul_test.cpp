// cublasLt's products as a program sees them, over a driver library that computes at once on host memory
// (../fake_driver.cpp): every type, order, transposition and epilogue against a plain triple loop.

#include <cuda.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "libclient/cublas/lt/lt_fixture.hpp"

namespace {

double activated(double x, cublasLtEpilogue_t epilogue) {
  if ((epilogue & CUBLASLT_EPILOGUE_RELU) != 0) return std::max(x, 0.0);
  if ((epilogue & CUBLASLT_EPILOGUE_GELU) == 0) return x;
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

// One product: described by cublasLt's means, computed, and compared.
struct Case {
  Types types;
  bool transpose_a = false, transpose_b = false;
  bool by_rows_a = false, by_rows_b = false, by_rows_result = false;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  double beta = 0.5;
  bool separate = true, device_factors = false, bias_is_shared = false;
  static constexpr int m = 3, n = 4, k = 5, batches = 2, pad = 2;

  std::string name() const {
    return "in " + std::to_string(types.in) + " out " + std::to_string(types.out) + " sums " +
           std::to_string(types.compute) + " ta " + std::to_string(transpose_a) + " tb " +
           std::to_string(transpose_b) + " rows " + std::to_string(by_rows_a) + std::to_string(by_rows_b) +
           std::to_string(by_rows_result) + " epilogue " + std::to_string(epilogue) + " beta " +
           std::to_string(beta) + " separate " + std::to_string(separate);
  }

  void check(cublasLtHandle_t handle) const {
    SCOPED_TRACE(name());
    const Matrix a(types.in, transpose_a ? k : m, transpose_a ? m : k, by_rows_a, batches, pad, 1);
    const Matrix b(types.in, transpose_b ? n : k, transpose_b ? k : n, by_rows_b, batches, pad, 2);
    Matrix c(types.out, m, n, by_rows_result, batches, pad, 3);
    Matrix other(types.out, m, n, by_rows_result, batches, pad + 1, 4);
    const Matrix before = c;
    Matrix& result = separate ? other : c;
    const Matrix bias(types.out, m, batches, false, 1, bias_is_shared ? 0 : pad, 5);

    const Operation operation(types);
    operation.set(CUBLASLT_MATMUL_DESC_TRANSA, transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    operation.set(CUBLASLT_MATMUL_DESC_TRANSB, transpose_b ? CUBLAS_OP_C : CUBLAS_OP_N);
    operation.set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if ((epilogue & CUBLASLT_EPILOGUE_BIAS) != 0) {
      operation.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.data());
      operation.set(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE,
                    bias_is_shared ? std::int64_t{0} : std::int64_t{bias.leading()});
    }
    if (device_factors) operation.set(CUBLASLT_MATMUL_DESC_POINTER_MODE, CUBLASLT_POINTER_MODE_DEVICE);
    const Scalar alpha(types, 2), scale(types, beta);

    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    const Preference preference;
    ASSERT_EQ(cublasLtMatmulAlgoGetHeuristic(handle, operation.get(), a.layout(), b.layout(), c.layout(),
                                             result.layout(), preference.get(), 1, &found, &count),
              CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(count, 1);
    ASSERT_EQ(found.workspaceSize, 0U);
    ASSERT_EQ(cublasLtMatmul(handle, operation.get(), alpha.data(), a.data(), a.layout(), b.data(),
                             b.layout(), scale.data(), c.data(), c.layout(), result.data(), result.layout(),
                             &found.algo, nullptr, 0, nullptr),
              CUBLAS_STATUS_SUCCESS);
    for (int batch = 0; batch < batches; ++batch) {
      for (int column = 0; column < n; ++column) {
        for (int row = 0; row < m; ++row) {
          double sum = 0;
          for (int step = 0; step < k; ++step) {
            sum += (transpose_a ? a.get(batch, step, row) : a.get(batch, row, step)) *
                   (transpose_b ? b.get(batch, column, step) : b.get(batch, step, column));
          }
          double expected = 2 * sum + beta * before.get(batch, row, column);
          if ((epilogue & CUBLASLT_EPILOGUE_BIAS) != 0)
            expected += bias.get(0, row, bias_is_shared ? 0 : batch);
          expected = activated(expected, epilogue);
          ASSERT_NEAR(result.get(batch, row, column), expected,
                      tolerance(types.out) * (1 + std::abs(expected)));
        }
      }
    }
  }
};

constexpr cublasLtEpilogue_t epilogues[] = {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS,
                                            CUBLASLT_EPILOGUE_RELU,    CUBLASLT_EPILOGUE_RELU_BIAS,
                                            CUBLASLT_EPILOGUE_GELU,    CUBLASLT_EPILOGUE_GELU_BIAS};

TEST_F(CublasLt, EveryTypeOrderTranspositionAndEpilogueMatchesATripleLoop) {
  for (const Types& types : supported) {
    for (const cublasLtEpilogue_t epilogue : epilogues) {
      for (int layout = 0; layout < 32; ++layout) {
        Case test;
        test.types = types, test.epilogue = epilogue;
        test.transpose_a = (layout & 1) != 0, test.transpose_b = (layout & 2) != 0;
        test.by_rows_a = (layout & 4) != 0, test.by_rows_b = (layout & 8) != 0;
        test.by_rows_result = (layout & 16) != 0;
        test.check(handle_);
      }
    }
  }
}

TEST_F(CublasLt, ResultsMayBeInPlaceFactorsOnTheDeviceAndABiasShared) {
  for (const Types& types : supported) {
    for (int variant = 0; variant < 32; ++variant) {
      Case test;
      test.types = types, test.epilogue = CUBLASLT_EPILOGUE_GELU_BIAS;
      test.separate = (variant & 1) != 0, test.device_factors = (variant & 2) != 0;
      test.bias_is_shared = (variant & 4) != 0, test.by_rows_result = (variant & 8) != 0;
      test.beta = (variant & 16) != 0 ? 0.5 : 0;
      test.check(handle_);
    }
  }
}

TEST_F(CublasLt, FasterSumsAreExactOnes) {
  for (const cublasComputeType_t compute : {CUBLAS_COMPUTE_32F_PEDANTIC, CUBLAS_COMPUTE_32F_FAST_16F,
                                            CUBLAS_COMPUTE_32F_FAST_16BF, CUBLAS_COMPUTE_32F_FAST_TF32}) {
    Case test;
    test.types = {CUDA_R_32F, CUDA_R_32F, compute, CUDA_R_32F};
    test.check(handle_);
  }
}

// A 2 x 2 product in f32, to be changed until it fails.
class CublasLtProduct : public CublasLt {
 protected:
  cublasStatus_t run(const void* c, cublasLtHandle_t handle, const void* factor) {
    return cublasLtMatmul(handle, operation_.get(), factor, a_.data(), a_.layout(), b_.data(), b_.layout(),
                          beta_.data(), c, c_.layout(), d_.data(), d_.layout(), nullptr, nullptr, 0, stream_);
  }
  cublasStatus_t run() { return run(c_.data(), handle_, alpha_.data()); }
  cublasStatus_t ask() {
    const Preference preference;
    cublasLtMatmulHeuristicResult_t found;
    count_ = 7;
    return cublasLtMatmulAlgoGetHeuristic(handle_, operation_.get(), a_.layout(), b_.layout(), c_.layout(),
                                          d_.layout(), preference.get(), 1, &found, &count_);
  }
  // Both the question and the product get this answer.
  void expect(cublasStatus_t status) {
    EXPECT_EQ(ask(), status);
    EXPECT_EQ(count_, status == CUBLAS_STATUS_SUCCESS ? 1 : 0);
    EXPECT_EQ(run(), status);
  }

  Matrix a_ = square(1), b_ = square(2), c_ = square(3), d_ = square(4);
  Operation operation_{supported[0]};
  Scalar alpha_{supported[0], 1}, beta_{supported[0], 1};
  cudaStream_t stream_ = nullptr;
  int count_ = 0;

 private:
  static Matrix square(int seed) { return {CUDA_R_32F, 2, 2, false, 1, 0, seed}; }
};

TEST_F(CublasLtProduct, GoesIntoTheStreamThatIsNamed) {
  stream_ = reinterpret_cast<cudaStream_t>(0x1234);
  ASSERT_EQ(run(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(fake_last_stream(), reinterpret_cast<CUstream>(stream_));
}

TEST_F(CublasLtProduct, TakesAHandleOfOurLibcublasToo) {
  cublasHandle_t other = nullptr;
  ASSERT_EQ(cublasCreate_v2(&other), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(run(c_.data(), reinterpret_cast<cublasLtHandle_t>(other), alpha_.data()), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasDestroy_v2(other), CUBLAS_STATUS_SUCCESS);
}

TEST_F(CublasLtProduct, NeedsNoCWithoutABeta) {
  EXPECT_EQ(run(nullptr, handle_, alpha_.data()), CUBLAS_STATUS_INVALID_VALUE);
  beta_ = Scalar(supported[0], 0);
  EXPECT_EQ(run(nullptr, handle_, alpha_.data()), CUBLAS_STATUS_SUCCESS);
}

TEST_F(CublasLtProduct, TakesTablesOfPointers) {
  const auto by_pointers = [](Matrix& matrix) {
    matrix.set(CUBLASLT_MATRIX_LAYOUT_BATCH_MODE, std::uint32_t{CUBLASLT_BATCH_MODE_POINTER_ARRAY});
    return matrix.data();
  };
  const void* a[1] = {by_pointers(a_)};
  expect(CUBLAS_STATUS_INVALID_VALUE);  // only one of the four
  const void* b[1] = {by_pointers(b_)};
  const void* c[1] = {by_pointers(c_)};
  void* d[1] = {by_pointers(d_)};
  ASSERT_EQ(cublasLtMatmul(handle_, operation_.get(), alpha_.data(), a, a_.layout(), b, b_.layout(),
                           beta_.data(), c, c_.layout(), d, d_.layout(), nullptr, nullptr, 0, nullptr),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(d_.get(0, 1, 0),
            a_.get(0, 1, 0) * b_.get(0, 0, 0) + a_.get(0, 1, 1) * b_.get(0, 1, 0) + c_.get(0, 1, 0));
}

TEST_F(CublasLtProduct, ContradictionsAreInvalid) {
  expect(CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(run(c_.data(), nullptr, alpha_.data()), CUBLAS_STATUS_NOT_INITIALIZED);
  EXPECT_EQ(run(c_.data(), handle_, nullptr), CUBLAS_STATUS_INVALID_VALUE);
  b_.set(CUBLASLT_MATRIX_LAYOUT_ROWS, std::uint64_t{1});
  expect(CUBLAS_STATUS_INVALID_VALUE);
  b_.set(CUBLASLT_MATRIX_LAYOUT_ROWS, std::uint64_t{2});
  b_.set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, std::int32_t{2});
  expect(CUBLAS_STATUS_INVALID_VALUE);
  b_.set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, std::int32_t{1});
  b_.set(CUBLASLT_MATRIX_LAYOUT_LD, std::int64_t{1});
  expect(CUBLAS_STATUS_INVALID_VALUE);
  b_.set(CUBLASLT_MATRIX_LAYOUT_LD, std::int64_t{-2});
  expect(CUBLAS_STATUS_INVALID_VALUE);
  b_.set(CUBLASLT_MATRIX_LAYOUT_LD, std::int64_t{2});
  expect(CUBLAS_STATUS_SUCCESS);
  for (Matrix* matrix : {&a_, &b_, &c_, &d_}) matrix->set(CUBLASLT_MATRIX_LAYOUT_ROWS, ~std::uint64_t{0});
  expect(CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLtProduct, ABiasMustBeSomewhere) {
  operation_.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  EXPECT_EQ(ask(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(run(), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLtProduct, ABiasMayHaveATypeOfItsOwn) {
  const Matrix bias(CUDA_R_16F, 2, 1, false, 1, 0, 5);
  operation_.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  operation_.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.data());
  operation_.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, std::int32_t{CUDA_R_16F});
  ASSERT_EQ(run(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(d_.get(0, 1, 0), a_.get(0, 1, 0) * b_.get(0, 0, 0) + a_.get(0, 1, 1) * b_.get(0, 1, 0) +
                                 c_.get(0, 1, 0) + bias.get(0, 1, 0));
  operation_.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, std::int32_t{CUDA_R_64F});
  expect(CUBLAS_STATUS_NOT_SUPPORTED);
  operation_.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, std::int32_t{CUDA_R_8I});
  expect(CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST_F(CublasLtProduct, WhatIsNotCarriedOutIsNotSupported) {
  const auto with = [this](cublasLtMatmulDescAttributes_t attribute, auto value, auto usual) {
    operation_.set(attribute, value);
    expect(CUBLAS_STATUS_NOT_SUPPORTED);
    operation_.set(attribute, usual);
    expect(CUBLAS_STATUS_SUCCESS);
  };
  for (const auto epilogue :
       {CUBLASLT_EPILOGUE_RELU_AUX, CUBLASLT_EPILOGUE_DRELU, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
        CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADB}) {
    with(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue, CUBLASLT_EPILOGUE_DEFAULT);
  }
  with(CUBLASLT_MATMUL_DESC_POINTER_MODE, CUBLASLT_POINTER_MODE_DEVICE_VECTOR, CUBLASLT_POINTER_MODE_HOST);
  with(CUBLASLT_MATMUL_DESC_FILL_MODE, CUBLAS_FILL_MODE_LOWER, CUBLAS_FILL_MODE_FULL);
  with(CUBLASLT_MATMUL_DESC_TRANSC, CUBLAS_OP_T, CUBLAS_OP_N);
  with(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_CONJG, CUBLAS_OP_N);
  with(CUBLASLT_MATMUL_DESC_SCALE_TYPE, CUDA_R_64F, CUDA_R_32F);
  with(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, CUBLAS_COMPUTE_32I, CUBLAS_COMPUTE_32F);
  with(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, CUBLAS_COMPUTE_64F, CUBLAS_COMPUTE_32F);
  c_.set(CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_ORDER_ROW);
  expect(CUBLAS_STATUS_NOT_SUPPORTED);
  c_.set(CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_ORDER_COL);
  a_.set(CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_ORDER_COL32);
  expect(CUBLAS_STATUS_NOT_SUPPORTED);
  a_.set(CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_ORDER_COL);
  for (const cudaDataType type : {CUDA_R_8I, CUDA_R_8F_E4M3, CUDA_C_32F}) {
    a_.set(CUBLASLT_MATRIX_LAYOUT_TYPE, type);
    expect(CUBLAS_STATUS_NOT_SUPPORTED);
  }
}

}  // namespace
