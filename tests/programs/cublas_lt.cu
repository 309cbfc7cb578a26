// cublasLt as a network's linear layers use it: products with bias and GELU or ReLU, in f32 and f16, in
// batches, by rows, in place and not, behind a kernel in the same stream; against the CPU. On the software
// GPU it needs vgpud's own libcublasLt on the library path.
#include <cublasLt.h>
#include <cuda_fp16.h>

#include "check.hpp"

namespace {

void lt_ok(cublasStatus_t status, int line, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) check::fail(__FILE__, line, what, cublasLtGetStatusString(status));
}
#define LT_OK(call) lt_ok((call), __LINE__, #call)

template <typename T>
cudaDataType type_of();
template <>
cudaDataType type_of<float>() {
  return CUDA_R_32F;
}
template <>
cudaDataType type_of<__half>() {
  return CUDA_R_16F;
}

template <typename T>
__global__ void twice(T* values, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) values[i] = values[i] + values[i];
}

template <typename T>
struct Numbers {
  std::vector<double> host;
  T* device = nullptr;

  Numbers(int count, uint32_t seed) : host(count) {
    check::Random random(seed);
    std::vector<T> narrow(count);
    for (int i = 0; i < count; ++i) {
      narrow[i] = static_cast<T>(random.unit() - 0.5F);
      host[i] = static_cast<double>(static_cast<float>(narrow[i]));
    }
    CUDA_OK(cudaMalloc(&device, count * sizeof(T)));
    CUDA_OK(cudaMemcpy(device, narrow.data(), count * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~Numbers() { cudaFree(device); }
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;

  std::vector<double> now() const {
    std::vector<T> narrow(host.size());
    CUDA_OK(cudaMemcpy(narrow.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
    std::vector<double> wide(host.size());
    for (size_t i = 0; i < host.size(); ++i) wide[i] = static_cast<double>(static_cast<float>(narrow[i]));
    return wide;
  }
};

struct Shape {
  int m, n, k, batches;
};

double finished(double x, cublasLtEpilogue_t epilogue) {
  if ((epilogue & CUBLASLT_EPILOGUE_RELU) != 0) return x > 0 ? x : 0;
  if ((epilogue & CUBLASLT_EPILOGUE_GELU) == 0) return x;
  return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

cublasLtMatrixLayout_t layout(cudaDataType type, int rows, int columns, bool by_rows, int batches) {
  cublasLtMatrixLayout_t made = nullptr;
  LT_OK(cublasLtMatrixLayoutCreate(&made, type, rows, columns, by_rows ? columns : rows));
  const int32_t order = by_rows ? CUBLASLT_ORDER_ROW : CUBLASLT_ORDER_COL, count = batches;
  const int64_t stride = static_cast<int64_t>(rows) * columns;
  LT_OK(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof order));
  LT_OK(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
  LT_OK(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                         sizeof stride));
  return made;
}

// D = epilogue(1.5 (2 A)' B + beta C + bias), A being doubled by a kernel first.
template <typename T>
void layer(cublasLtHandle_t handle, cudaStream_t stream, Shape s, cublasLtEpilogue_t epilogue, float beta,
           bool by_rows, bool in_place, double tolerance) {
  const Numbers<T> a(s.k * s.m * s.batches, 1), b(s.k * s.n * s.batches, 2), c(s.m * s.n * s.batches, 3),
      other(s.m * s.n * s.batches, 4), bias(s.m, 5);
  const Numbers<T>& d = in_place ? c : other;
  cublasLtMatmulDesc_t operation = nullptr;
  LT_OK(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t transpose = CUBLAS_OP_T;
  LT_OK(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose));
  LT_OK(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
  const bool biased = (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0;
  if (biased) {
    const void* pointer = bias.device;
    LT_OK(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &pointer,
                                         sizeof pointer));
  }
  const auto la = layout(type_of<T>(), s.k, s.m, by_rows, s.batches),
             lb = layout(type_of<T>(), s.k, s.n, by_rows, s.batches),
             lc = layout(type_of<T>(), s.m, s.n, by_rows, s.batches),
             ld = layout(type_of<T>(), s.m, s.n, by_rows, s.batches);

  cublasLtMatmulPreference_t preference = nullptr;
  LT_OK(cublasLtMatmulPreferenceCreate(&preference));
  constexpr size_t kRoom = 4U << 20;
  LT_OK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kRoom,
                                             sizeof kRoom));
  cublasLtMatmulHeuristicResult_t found[4];
  int count = 0;
  LT_OK(cublasLtMatmulAlgoGetHeuristic(handle, operation, la, lb, lc, ld, preference, 4, found, &count));
  EXPECT(count >= 1, "no algorithm");
  EXPECT(found[0].workspaceSize <= kRoom, "%zu bytes of workspace", found[0].workspaceSize);
  void* workspace = nullptr;
  CUDA_OK(cudaMalloc(&workspace, kRoom));

  const int elements = s.k * s.m * s.batches;
  twice<<<(elements + 255) / 256, 256, 0, stream>>>(a.device, elements);
  CUDA_OK(cudaGetLastError());
  const float alpha = 1.5F;
  LT_OK(cublasLtMatmul(handle, operation, &alpha, a.device, la, b.device, lb, &beta, c.device, lc, d.device,
                       ld, &found[0].algo, workspace, kRoom, stream));
  CUDA_OK(cudaStreamSynchronize(stream));

  const auto at = [by_rows](int rows, int columns, int batch, int row, int column) {
    return batch * rows * columns + (by_rows ? row * columns + column : column * rows + row);
  };
  const std::vector<double> result = d.now();
  for (int batch = 0; batch < s.batches; ++batch) {
    for (int column = 0; column < s.n; ++column) {
      for (int row = 0; row < s.m; ++row) {
        double sum = 0;
        for (int step = 0; step < s.k; ++step) {
          sum += 2 * a.host[at(s.k, s.m, batch, step, row)] * b.host[at(s.k, s.n, batch, step, column)];
        }
        const int index = at(s.m, s.n, batch, row, column);
        double wanted = 1.5 * sum + static_cast<double>(beta) * c.host[index];
        if (biased) wanted += bias.host[row];
        wanted = finished(wanted, epilogue);
        EXPECT(check::near(result[index], wanted, tolerance),
               "epilogue %d, batch %d, (%d, %d): %g, wanted %g", static_cast<int>(epilogue), batch, row,
               column, result[index], wanted);
      }
    }
  }
  CUDA_OK(cudaFree(workspace));
  LT_OK(cublasLtMatmulPreferenceDestroy(preference));
  for (const auto each : {la, lb, lc, ld}) LT_OK(cublasLtMatrixLayoutDestroy(each));
  LT_OK(cublasLtMatmulDescDestroy(operation));
}

}  // namespace

int main() {
  cublasLtHandle_t handle = nullptr;
  LT_OK(cublasLtCreate(&handle));
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreate(&stream));
  constexpr Shape kOne{64, 48, 96, 1}, kThree{32, 24, 40, 3};
  constexpr double kFloat = 1e-4, kHalf = 5e-3;
  for (const auto epilogue :
       {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_RELU,
        CUBLASLT_EPILOGUE_RELU_BIAS, CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS}) {
    layer<float>(handle, stream, kOne, epilogue, 0.0F, false, false, kFloat);
    layer<__half>(handle, stream, kOne, epilogue, 0.0F, false, true, kHalf);
    layer<__half>(handle, stream, kOne, epilogue, 0.5F, false, false, kHalf);
  }
  layer<float>(handle, stream, kThree, CUBLASLT_EPILOGUE_DEFAULT, 0.5F, false, false, kFloat);
  layer<float>(handle, stream, kThree, CUBLASLT_EPILOGUE_DEFAULT, 0.5F, true, true, kFloat);
  layer<__half>(handle, stream, kThree, CUBLASLT_EPILOGUE_GELU_BIAS, 0.0F, false, false, kHalf);
  CUDA_OK(cudaStreamDestroy(stream));
  LT_OK(cublasLtDestroy(handle));
  return check::done("cublas_lt");
}
