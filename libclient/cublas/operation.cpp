#include "libclient/cublas/operation.hpp"

#include <cuda.h>
#include <dlfcn.h>

#include <cstring>
#include <type_traits>

#include "cudaabi/blas_number.hpp"

namespace vgpu::cublas {
namespace {

using cudaabi::BlasElement;

// The driver functions needed here, from whichever libcuda.so.1 the process uses.
struct Driver {
  decltype(&cuInit) init = nullptr;
  decltype(&cuGetExportTable) export_table = nullptr;
  decltype(&cuCtxGetCurrent) current = nullptr;
  decltype(&cuCtxSetCurrent) set_current = nullptr;
  decltype(&cuDevicePrimaryCtxRetain) retain_primary = nullptr;
  const cudaabi::BlasTable* table = nullptr;

  Driver() {
    void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return;
    const auto resolve = [library](const char* name, auto& out) {
      out = reinterpret_cast<std::remove_reference_t<decltype(out)>>(::dlsym(library, name));
      return out != nullptr;
    };
    if (!resolve("cuInit", init) || !resolve("cuGetExportTable", export_table) ||
        !resolve("cuCtxGetCurrent", current) || !resolve("cuCtxSetCurrent", set_current) ||
        !resolve("cuDevicePrimaryCtxRetain", retain_primary)) {
      return;
    }
    const void* found = nullptr;
    CUuuid uuid;
    std::memcpy(uuid.bytes, cudaabi::blas_table_uuid.data(), sizeof uuid.bytes);
    if (export_table(&found, &uuid) != CUDA_SUCCESS || found == nullptr) return;
    const auto* candidate = static_cast<const cudaabi::BlasTable*>(found);
    if (candidate->size >= sizeof(cudaabi::BlasTable)) table = candidate;
  }
};

bool ensure_context(const Driver& driver) {
  CUcontext context = nullptr;
  if (driver.init(0) != CUDA_SUCCESS) return false;
  if (driver.current(&context) == CUDA_SUCCESS && context != nullptr) return true;
  return driver.retain_primary(&context, 0) == CUDA_SUCCESS && driver.set_current(context) == CUDA_SUCCESS;
}

}  // namespace

const cudaabi::BlasTable* driver_table() {
  static const Driver driver;
  return driver.table != nullptr && ensure_context(driver) ? driver.table : nullptr;
}

cublasStatus_t judge(const cudaabi::BlasDescriptor& descriptor) {
  switch (cudaabi::check_blas(descriptor)) {
    case cudaabi::BlasCheck::ok:
      return CUBLAS_STATUS_SUCCESS;
    case cudaabi::BlasCheck::invalid:
      return CUBLAS_STATUS_INVALID_VALUE;
    case cudaabi::BlasCheck::unsupported:
      break;
  }
  return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t submit(const cudaabi::BlasTable& table, cudaStream_t stream,
                      const cudaabi::BlasDescriptor& descriptor) {
  if (const cublasStatus_t judged = judge(descriptor); judged != CUBLAS_STATUS_SUCCESS) return judged;
  if (descriptor.m == 0 || descriptor.n == 0 || descriptor.batches == 0) return CUBLAS_STATUS_SUCCESS;
  switch (table.enqueue(stream, &descriptor, sizeof descriptor)) {
    case CUDA_SUCCESS:
      return CUBLAS_STATUS_SUCCESS;
    case CUDA_ERROR_NOT_SUPPORTED:
      return CUBLAS_STATUS_NOT_SUPPORTED;
    case CUDA_ERROR_OUT_OF_MEMORY:
      return CUBLAS_STATUS_ALLOC_FAILED;
    default:
      return CUBLAS_STATUS_EXECUTION_FAILED;
  }
}

bool set_factor(Factors where, const void* from, BlasElement type, cudaabi::BlasScalar& out) {
  if (from == nullptr) return false;
  if (where == Factors::device) {
    out.address = address_of(from);
    return true;
  }
  out.value = cudaabi::read_number<double>(from, type);
  return true;
}

std::optional<BlasElement> element_of(cudaDataType type) {
  switch (type) {
    case CUDA_R_32F:
      return BlasElement::f32;
    case CUDA_R_16F:
      return BlasElement::f16;
    case CUDA_R_16BF:
      return BlasElement::bf16;
    case CUDA_R_64F:
      return BlasElement::f64;
    default:
      return std::nullopt;
  }
}

std::optional<BlasElement> sum_type_of(cublasComputeType_t type) {
  switch (static_cast<int>(type)) {
    case CUBLAS_COMPUTE_16F:
    case CUBLAS_COMPUTE_16F_PEDANTIC:
      return BlasElement::f16;
    case CUBLAS_COMPUTE_32F:
    case CUBLAS_COMPUTE_32F_PEDANTIC:
    case CUBLAS_COMPUTE_32F_FAST_16F:
    case CUBLAS_COMPUTE_32F_FAST_16BF:
    case CUBLAS_COMPUTE_32F_FAST_TF32:
      return BlasElement::f32;
    case CUBLAS_COMPUTE_64F:
    case CUBLAS_COMPUTE_64F_PEDANTIC:
      return BlasElement::f64;
    default:
      return std::nullopt;
  }
}

}  // namespace vgpu::cublas
