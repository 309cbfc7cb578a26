// cublasLt's transforms as a program sees them: types, orders, transpositions, and what is missing.

#include <gtest/gtest.h>

#include <cmath>

#include "libclient/cublas/lt/lt_fixture.hpp"

namespace {

class CublasLtTransform : public CublasLt {
 protected:
  void SetUp() override {
    CublasLt::SetUp();
    ASSERT_EQ(cublasLtMatrixTransformDescCreate(&operation_, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  }
  void TearDown() override {
    if (operation_ != nullptr) {
      EXPECT_EQ(cublasLtMatrixTransformDescDestroy(operation_), CUBLAS_STATUS_SUCCESS);
    }
    CublasLt::TearDown();
  }
  template <class T>
  void set(cublasLtMatrixTransformDescAttributes_t attribute, T value) {
    EXPECT_EQ(cublasLtMatrixTransformDescSetAttribute(operation_, attribute, &value, sizeof value),
              CUBLAS_STATUS_SUCCESS);
  }
  cublasStatus_t run(const Matrix* a, const Matrix* b, Matrix& c) {
    return cublasLtMatrixTransform(handle_, operation_, &alpha_, a != nullptr ? a->data() : nullptr,
                                   a != nullptr ? a->layout() : nullptr, &beta_,
                                   b != nullptr ? b->data() : nullptr, b != nullptr ? b->layout() : nullptr,
                                   c.data(), c.layout(), nullptr);
  }

  cublasLtMatrixTransformDesc_t operation_ = nullptr;
  float alpha_ = 2, beta_ = 0.5F;
};

TEST_F(CublasLtTransform, EveryOrderTypeAndTranspositionMatchesALoop) {
  constexpr int rows = 3, columns = 5, batches = 2;
  for (const cudaDataType in : {CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF}) {
    for (const cudaDataType out : {CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF}) {
      for (int variant = 0; variant < 64; ++variant) {
        SCOPED_TRACE(variant);
        const bool ta = (variant & 1) != 0, tb = (variant & 2) != 0, has_b = (variant & 32) != 0;
        const Matrix a(in, ta ? columns : rows, ta ? rows : columns, (variant & 4) != 0, batches, 1, 1);
        const Matrix b(in, tb ? columns : rows, tb ? rows : columns, (variant & 8) != 0, batches, 2, 2);
        Matrix c(out, rows, columns, (variant & 16) != 0, batches, 3, 3);
        set(CUBLASLT_MATRIX_TRANSFORM_DESC_TRANSA, ta ? CUBLAS_OP_T : CUBLAS_OP_N);
        set(CUBLASLT_MATRIX_TRANSFORM_DESC_TRANSB, tb ? CUBLAS_OP_T : CUBLAS_OP_N);
        ASSERT_EQ(run(&a, has_b ? &b : nullptr, c), CUBLAS_STATUS_SUCCESS);
        for (int batch = 0; batch < batches; ++batch) {
          for (int row = 0; row < rows; ++row) {
            for (int column = 0; column < columns; ++column) {
              double expected = 2 * (ta ? a.get(batch, column, row) : a.get(batch, row, column));
              if (has_b) expected += 0.5 * (tb ? b.get(batch, column, row) : b.get(batch, row, column));
              ASSERT_NEAR(c.get(batch, row, column), expected, tolerance(out) * (1 + std::abs(expected)));
            }
          }
        }
      }
    }
  }
}

TEST_F(CublasLtTransform, NonsenseIsInvalidAndTheRestNotSupported) {
  const Matrix a(CUDA_R_32F, 2, 3, false, 1, 0, 1), other(CUDA_R_32F, 3, 3, false, 1, 0, 2);
  Matrix c(CUDA_R_32F, 2, 3, false, 1, 0, 3);
  EXPECT_EQ(run(&a, nullptr, c), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(run(nullptr, &a, c), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(run(nullptr, nullptr, c), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(run(&a, &other, c), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasLtMatrixTransform(nullptr, operation_, &alpha_, a.data(), a.layout(), nullptr, nullptr,
                                    nullptr, c.data(), c.layout(), nullptr),
            CUBLAS_STATUS_NOT_INITIALIZED);
  EXPECT_EQ(cublasLtMatrixTransform(handle_, operation_, nullptr, a.data(), a.layout(), nullptr, nullptr,
                                    nullptr, c.data(), c.layout(), nullptr),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasLtMatrixTransform(handle_, nullptr, &alpha_, a.data(), a.layout(), nullptr, nullptr,
                                    nullptr, c.data(), c.layout(), nullptr),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasLtMatrixTransform(handle_, operation_, &alpha_, a.data(), nullptr, nullptr, nullptr,
                                    nullptr, c.data(), c.layout(), nullptr),
            CUBLAS_STATUS_INVALID_VALUE);
  const Matrix wide(CUDA_R_64F, 2, 3, false, 1, 0, 4);
  EXPECT_EQ(run(&wide, nullptr, c), CUBLAS_STATUS_NOT_SUPPORTED);
  c.set(CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_ORDER_COL32);
  EXPECT_EQ(run(&a, nullptr, c), CUBLAS_STATUS_NOT_SUPPORTED);
}

}  // namespace
