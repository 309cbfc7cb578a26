// cublasLt's descriptors, algorithms and settings: what is kept, what is refused.

#include <cublas_api.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include "libclient/cublas/lt/lt_fixture.hpp"

namespace {

TEST_F(CublasLt, AttributesAreKeptAndGivenBack) {
  const Operation operation(supported[0]);
  const float bias = 0;
  operation.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias);
  operation.set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, std::int8_t{1});
  const void* pointer = nullptr;
  std::size_t written = 0;
  ASSERT_EQ(cublasLtMatmulDescGetAttribute(operation.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &pointer,
                                           sizeof pointer, &written),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(pointer, &bias);
  EXPECT_EQ(written, sizeof pointer);
  std::int32_t type = 0;
  ASSERT_EQ(cublasLtMatmulDescGetAttribute(operation.get(), CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type,
                                           sizeof type, nullptr),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(type, -1);
  ASSERT_EQ(cublasLtMatmulDescGetAttribute(operation.get(), CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE,
                                           &type, sizeof type, nullptr),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(type, -1);
  // With no room it only tells the size.
  ASSERT_EQ(
      cublasLtMatmulDescGetAttribute(operation.get(), CUBLASLT_MATMUL_DESC_EPILOGUE, nullptr, 0, &written),
      CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(written, sizeof(std::uint32_t));
}

TEST_F(CublasLt, PreferencesAndLayoutsKeepTheirsToo) {
  const Preference preference;
  const std::uint64_t room = 1 << 20;
  std::uint64_t back = 0;
  ASSERT_EQ(cublasLtMatmulPreferenceSetAttribute(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &room, sizeof room),
            CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cublasLtMatmulPreferenceGetAttribute(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &back, sizeof back, nullptr),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(back, room);
  cublasLtMatrixLayoutOpaque_t layout;
  ASSERT_EQ(cublasLtMatrixLayoutInit(&layout, CUDA_R_16F, 3, 5, 4), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(
      cublasLtMatrixLayoutGetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_COLS, &back, sizeof back, nullptr),
      CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(back, 5U);
}

TEST_F(CublasLt, NonsenseIsInvalid) {
  cublasLtMatmulDescOpaque_t operation{};
  std::int32_t value = CUBLAS_OP_T;
  const auto set = [&](cublasLtMatmulDesc_t descriptor, int attribute, const void* from, std::size_t bytes) {
    return cublasLtMatmulDescSetAttribute(descriptor, static_cast<cublasLtMatmulDescAttributes_t>(attribute),
                                          from, bytes);
  };
  constexpr int transpose = CUBLASLT_MATMUL_DESC_TRANSA;
  EXPECT_EQ(set(&operation, transpose, &value, 4), CUBLAS_STATUS_INVALID_VALUE);  // never set up
  ASSERT_EQ(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(set(&operation, transpose, &value, 4), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(set(nullptr, transpose, &value, 4), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(set(&operation, transpose, nullptr, 4), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(set(&operation, transpose, &value, 8), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(set(&operation, 1000, &value, 4), CUBLAS_STATUS_INVALID_VALUE);
  value = 77;
  EXPECT_EQ(set(&operation, transpose, &value, 4), CUBLAS_STATUS_INVALID_VALUE);
  ASSERT_EQ(cublasLtMatmulDescGetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSA, &value, 4, nullptr),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(value, CUBLAS_OP_T);
  EXPECT_EQ(cublasLtMatmulDescGetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSA, &value, 0, nullptr),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasLtMatmulDescInit_internal(&operation, 8, CUBLAS_COMPUTE_32F, CUDA_R_32F),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasLtMatmulDescCreate(nullptr, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_INVALID_VALUE);
  cublasLtMatmulDesc_t made = nullptr;
  EXPECT_EQ(cublasLtMatmulDescCreate(&made, static_cast<cublasComputeType_t>(3), CUDA_R_32F),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasLtMatmulDescDestroy(nullptr), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasLtCreate(nullptr), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasLtDestroy(nullptr), CUBLAS_STATUS_NOT_INITIALIZED);
}

TEST_F(CublasLt, WhatOtherOperationsNeedCannotBeSet) {
  const Operation operation(supported[0]);
  const float scale = 1;
  const void* pointer = &scale;
  const auto set = [&] {
    return cublasLtMatmulDescSetAttribute(operation.get(), CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &pointer,
                                          sizeof pointer);
  };
  EXPECT_EQ(set(), CUBLAS_STATUS_NOT_SUPPORTED);
  pointer = nullptr;
  EXPECT_EQ(set(), CUBLAS_STATUS_SUCCESS);
}

TEST_F(CublasLt, ThereIsOneAlgorithm) {
  int ids[4], count = 0;
  const auto list = [&](cudaDataType in) {
    return cublasLtMatmulAlgoGetIds(handle_, CUBLAS_COMPUTE_32F, CUDA_R_32F, in, in, CUDA_R_32F, CUDA_R_32F,
                                    4, ids, &count);
  };
  EXPECT_EQ(list(CUDA_R_8I), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(count, 0);
  ASSERT_EQ(list(CUDA_R_16F), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(count, 1);
  cublasLtMatmulAlgo_t algorithm;
  const auto make = [&](int id) {
    return cublasLtMatmulAlgoInit(handle_, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16F, CUDA_R_16F, CUDA_R_32F,
                                  CUDA_R_32F, id, &algorithm);
  };
  EXPECT_EQ(make(ids[0] + 1), CUBLAS_STATUS_INVALID_VALUE);
  ASSERT_EQ(make(ids[0]), CUBLAS_STATUS_SUCCESS);
  std::uint32_t mask = 0;
  ASSERT_EQ(cublasLtMatmulAlgoCapGetAttribute(&algorithm, CUBLASLT_ALGO_CAP_EPILOGUE_MASK, &mask, sizeof mask,
                                              nullptr),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(mask & CUBLASLT_EPILOGUE_GELU_BIAS, std::uint32_t{CUBLASLT_EPILOGUE_GELU_BIAS});
  std::size_t written = 7;
  ASSERT_EQ(cublasLtMatmulAlgoCapGetAttribute(&algorithm, CUBLASLT_ALGO_CAP_TILE_IDS, nullptr, 0, &written),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(written, 0U);

  const Matrix a(CUDA_R_16F, 2, 2, false, 1, 0, 1), c(CUDA_R_32F, 2, 2, false, 1, 0, 2);
  const Operation operation(supported[2]);
  cublasLtMatmulHeuristicResult_t result;
  const auto check = [&](const cublasLtMatmulAlgo_t& which) {
    return cublasLtMatmulAlgoCheck(handle_, operation.get(), a.layout(), a.layout(), c.layout(), c.layout(),
                                   &which, &result);
  };
  EXPECT_EQ(check(algorithm), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(check(cublasLtMatmulAlgo_t{}), CUBLAS_STATUS_INVALID_VALUE);
  const std::int32_t parts = 4;
  ASSERT_EQ(
      cublasLtMatmulAlgoConfigSetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts, sizeof parts),
      CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(check(algorithm), CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST_F(CublasLt, SettingsAreHarmless) {
  EXPECT_EQ(cublasLtGetVersion(), std::size_t{CUBLAS_VERSION});
  EXPECT_EQ(cublasLtGetCudartVersion(), std::size_t{CUDART_VERSION});
  int major = 0;
  EXPECT_EQ(cublasLtGetProperty(MAJOR_VERSION, &major), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(major, CUBLAS_VER_MAJOR);
  EXPECT_STREQ(cublasLtGetStatusName(CUBLAS_STATUS_NOT_SUPPORTED), "CUBLAS_STATUS_NOT_SUPPORTED");
  EXPECT_EQ(cublasLtLoggerSetLevel(5), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtLoggerSetLevel(6), CUBLAS_STATUS_INVALID_VALUE);
  std::size_t capacity = 0;
  EXPECT_EQ(cublasLtHeuristicsCacheSetCapacity(3), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtHeuristicsCacheGetCapacity(&capacity), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(capacity, 3U);
}

TEST_F(CublasLt, WhatIsNotPublicIsThereAndRefuses) {
  using Function = int (*)();
  for (const char* name : {"cublasLtSSSMatmul", "cublasLtLegacyGemmSSS", "cublasLt_for_cublas_SSS",
                           "cublasLtCtxInit", "cublasLtEmulationDescCreate"}) {
    SCOPED_TRACE(name);
    const auto function = reinterpret_cast<Function>(::dlvsym(RTLD_DEFAULT, name, "libcublasLt.so.13"));
    ASSERT_NE(function, nullptr);
    EXPECT_EQ(function(), CUBLAS_STATUS_NOT_SUPPORTED);
  }
}

}  // namespace
