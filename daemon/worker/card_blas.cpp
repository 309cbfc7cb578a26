#include "daemon/worker/card_blas.hpp"

#include <dlfcn.h>

#include <array>
#include <cstring>

#include "cudaabi/half.hpp"

namespace vgpu::worker {
namespace {

using cudaabi::BlasBatch;
using cudaabi::BlasDescriptor;
using cudaabi::BlasElement;
using cudaabi::BlasMatrix;
using cudaabi::BlasOperation;

cudaDataType data_type(BlasElement type) {
  switch (type) {
    case BlasElement::f16:
      return CUDA_R_16F;
    case BlasElement::bf16:
      return CUDA_R_16BF;
    case BlasElement::f64:
      return CUDA_R_64F;
    case BlasElement::f32:
      break;
  }
  return CUDA_R_32F;
}

cublasComputeType_t compute_type(BlasElement scalar) {
  return scalar == BlasElement::f64   ? CUBLAS_COMPUTE_64F
         : scalar == BlasElement::f16 ? CUBLAS_COMPUTE_16F
                                      : CUBLAS_COMPUTE_32F;
}

cublasOperation_t operation(const BlasMatrix& matrix) {
  return matrix.transpose != 0 ? CUBLAS_OP_T : CUBLAS_OP_N;
}

template <class T>
T* device(std::uint64_t address) {
  return reinterpret_cast<T*>(address);  // NOLINT(performance-no-int-to-ptr): never followed here
}

// A factor in the type that cuBLAS reads it in.
class Factor {
 public:
  Factor(double value, BlasElement type) {
    if (type == BlasElement::f64) {
      std::memcpy(bytes_.data(), &value, sizeof value);
    } else if (type == BlasElement::f32) {
      const auto narrow = static_cast<float>(value);
      std::memcpy(bytes_.data(), &narrow, sizeof narrow);
    } else {
      const std::uint16_t half = cudaabi::round_f16(static_cast<float>(value));
      std::memcpy(bytes_.data(), &half, sizeof half);
    }
  }
  const void* data() const { return bytes_.data(); }

 private:
  alignas(8) std::array<std::byte, 8> bytes_{};
};

// What cuBLAS's products do not have: a bias, an activation function, and a C besides the result. C does not
// matter where beta is known to be zero.
bool plain_product(const BlasDescriptor& d) {
  if (d.bias.address != 0 || d.activation != cudaabi::BlasActivation::none) return false;
  return cudaabi::blas_in_place(d) || (d.beta.address == 0 && d.beta.value == 0.0);
}

CUresult result_of(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return CUDA_SUCCESS;
    case CUBLAS_STATUS_NOT_SUPPORTED:
    case CUBLAS_STATUS_ARCH_MISMATCH:
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return CUDA_ERROR_NOT_SUPPORTED;
    case CUBLAS_STATUS_INVALID_VALUE:
      return CUDA_ERROR_INVALID_VALUE;
    case CUBLAS_STATUS_ALLOC_FAILED:
      return CUDA_ERROR_OUT_OF_MEMORY;
    default:
      return CUDA_ERROR_LAUNCH_FAILED;
  }
}

}  // namespace

std::span<const std::string> CardBlas::usual_places() {
  static const std::array<std::string, 4> places = {
      "libcublas.so.13", "/usr/local/cuda/lib64/libcublas.so.13", "libcublas.so.12",
      "/usr/local/cuda/lib64/libcublas.so.12"};
  return places;
}

tl::expected<std::unique_ptr<CardBlas>, std::string> CardBlas::open(std::span<const std::string> candidates) {
  std::string problem = "no cuBLAS is known";
  for (const std::string& path : candidates) {
    void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      problem = ::dlerror();
      continue;
    }
    std::unique_ptr<CardBlas> blas(new CardBlas);
    if (blas->resolve(library)) return blas;
    problem = path + " lacks functions of cuBLAS";
  }
  return tl::unexpected(problem);
}

CardBlas::~CardBlas() {
  for (const auto& [context, handle] : handles_) f_.destroy(handle);
}

bool CardBlas::resolve(void* library) {
  const auto find = [library](const char* name, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
    return function != nullptr;
  };
  return find("cublasCreate_v2", f_.create) && find("cublasDestroy_v2", f_.destroy) &&
         find("cublasSetStream_v2", f_.set_stream) && find("cublasSetPointerMode_v2", f_.set_pointer_mode) &&
         find("cublasGemmStridedBatchedEx", f_.gemm_strided) &&
         find("cublasGemmBatchedEx", f_.gemm_pointers) && find("cublasStrsm_v2", f_.strsm) &&
         find("cublasDtrsm_v2", f_.dtrsm) && find("cublasStrsmBatched", f_.strsm_batched) &&
         find("cublasDtrsmBatched", f_.dtrsm_batched);
}

cublasStatus_t CardBlas::handle_for(CUcontext context, cublasHandle_t& handle) {
  const auto known = handles_.find(context);
  if (known != handles_.end()) {
    handle = known->second;
    return CUBLAS_STATUS_SUCCESS;
  }
  const cublasStatus_t status = f_.create(&handle);
  if (status == CUBLAS_STATUS_SUCCESS) handles_.emplace(context, handle);
  return status;
}

CUresult CardBlas::enqueue(CUcontext context, CUstream stream, const BlasDescriptor& d) {
  switch (cudaabi::check_blas(d)) {
    case cudaabi::BlasCheck::ok:
      break;
    case cudaabi::BlasCheck::invalid:
      return CUDA_ERROR_INVALID_VALUE;
    case cudaabi::BlasCheck::unsupported:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
  if (d.m == 0 || d.n == 0 || d.batches == 0) return CUDA_SUCCESS;
  if (d.operation == BlasOperation::sum) return CUDA_ERROR_NOT_SUPPORTED;
  const bool gemm_asked = d.operation == BlasOperation::gemm;
  if (gemm_asked && !plain_product(d)) return CUDA_ERROR_NOT_SUPPORTED;
  // cuBLAS takes both factors from one side.
  const bool on_device = d.alpha.address != 0;
  if (gemm_asked && on_device != (d.beta.address != 0)) return CUDA_ERROR_NOT_SUPPORTED;
  cublasHandle_t handle = nullptr;
  cublasStatus_t status = handle_for(context, handle);
  if (status == CUBLAS_STATUS_SUCCESS) status = f_.set_stream(handle, stream);
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = f_.set_pointer_mode(handle, on_device ? CUBLAS_POINTER_MODE_DEVICE : CUBLAS_POINTER_MODE_HOST);
  }
  if (status != CUBLAS_STATUS_SUCCESS) return result_of(status);
  const Factor alpha(d.alpha.value, d.scalar_type), beta(d.beta.value, d.scalar_type);
  const void* const alpha_at = on_device ? device<const void>(d.alpha.address) : alpha.data();
  const void* const beta_at = on_device ? device<const void>(d.beta.address) : beta.data();
  return result_of(gemm_asked ? gemm(handle, d, alpha_at, beta_at) : trsm(handle, d, alpha_at));
}

// check_blas() has seen to it that sizes and leading dimensions fit into an int.
cublasStatus_t CardBlas::gemm(cublasHandle_t handle, const BlasDescriptor& d, const void* alpha,
                              const void* beta) const {
  const int m = static_cast<int>(d.m), n = static_cast<int>(d.n), k = static_cast<int>(d.k);
  const int lda = static_cast<int>(d.a.leading), ldb = static_cast<int>(d.b.leading),
            ldc = static_cast<int>(d.d.leading), batches = static_cast<int>(d.batches);
  const cudaDataType in = data_type(d.a.type), out = data_type(d.d.type);
  if (d.batch == BlasBatch::pointers) {
    return f_.gemm_pointers(
        handle, operation(d.a), operation(d.b), m, n, k, alpha, device<const void* const>(d.a.address), in,
        lda, device<const void* const>(d.b.address), in, ldb, beta, device<void* const>(d.d.address), out,
        ldc, batches, compute_type(d.scalar_type), CUBLAS_GEMM_DEFAULT);
  }
  return f_.gemm_strided(
      handle, operation(d.a), operation(d.b), m, n, k, alpha, device<const void>(d.a.address), in, lda,
      d.a.stride, device<const void>(d.b.address), in, ldb, d.b.stride, beta, device<void>(d.d.address), out,
      ldc, d.d.stride, batches, compute_type(d.scalar_type), CUBLAS_GEMM_DEFAULT);
}

cublasStatus_t CardBlas::trsm(cublasHandle_t handle, const BlasDescriptor& d, const void* alpha) const {
  const cublasSideMode_t side = d.right_side != 0 ? CUBLAS_SIDE_RIGHT : CUBLAS_SIDE_LEFT;
  const cublasFillMode_t fill = d.upper != 0 ? CUBLAS_FILL_MODE_UPPER : CUBLAS_FILL_MODE_LOWER;
  const cublasDiagType_t diagonal = d.unit_diagonal != 0 ? CUBLAS_DIAG_UNIT : CUBLAS_DIAG_NON_UNIT;
  const int m = static_cast<int>(d.m), n = static_cast<int>(d.n), lda = static_cast<int>(d.a.leading),
            ldb = static_cast<int>(d.b.leading), batches = static_cast<int>(d.batches);
  const bool wide = d.a.type == BlasElement::f64;
  if (d.batch == BlasBatch::pointers) {
    return wide
               ? f_.dtrsm_batched(handle, side, fill, operation(d.a), diagonal, m, n,
                                  static_cast<const double*>(alpha), device<const double* const>(d.a.address),
                                  lda, device<double* const>(d.b.address), ldb, batches)
               : f_.strsm_batched(handle, side, fill, operation(d.a), diagonal, m, n,
                                  static_cast<const float*>(alpha), device<const float* const>(d.a.address),
                                  lda, device<float* const>(d.b.address), ldb, batches);
  }
  if (batches != 1) return CUBLAS_STATUS_NOT_SUPPORTED;  // cuBLAS has no strided form
  return wide
             ? f_.dtrsm(handle, side, fill, operation(d.a), diagonal, m, n, static_cast<const double*>(alpha),
                        device<const double>(d.a.address), lda, device<double>(d.b.address), ldb)
             : f_.strsm(handle, side, fill, operation(d.a), diagonal, m, n, static_cast<const float*>(alpha),
                        device<const float>(d.a.address), lda, device<float>(d.b.address), ldb);
}

}  // namespace vgpu::worker
