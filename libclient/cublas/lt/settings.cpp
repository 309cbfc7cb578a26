// cublasLt's handle, versions, and settings that change nothing here.

#include <cublasLt.h>

#include <atomic>
#include <cstddef>

#include "libclient/cublas/handle.hpp"
#include "libclient/cublas/operation.hpp"
#include "libclient/cublas/status.hpp"

namespace {

// Remembered only: nothing is searched for, so nothing is cached; and instructions are OpenBLAS's choice.
std::atomic<std::size_t> cache_capacity = 8192;
std::atomic<unsigned> instructions_mask = 0;

}  // namespace

CUBLAS_EXPORT cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  return vgpu::cublas::make_handle(handle);
}

CUBLAS_EXPORT cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return vgpu::cublas::unmake_handle(handle);
}

CUBLAS_EXPORT size_t cublasLtGetVersion() {
  return CUBLAS_VERSION;
}
CUBLAS_EXPORT size_t cublasLtGetCudartVersion() {
  return CUDART_VERSION;
}
CUBLAS_EXPORT cublasStatus_t cublasLtGetProperty(libraryPropertyType type, int* value) {
  return vgpu::cublas::property(type, value);
}
CUBLAS_EXPORT const char* cublasLtGetStatusName(cublasStatus_t status) {
  return vgpu::cublas::status_name(status);
}
CUBLAS_EXPORT const char* cublasLtGetStatusString(cublasStatus_t status) {
  return vgpu::cublas::status_text(status);
}

CUBLAS_EXPORT cublasStatus_t cublasLtHeuristicsCacheGetCapacity(size_t* capacity) {
  if (capacity == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *capacity = cache_capacity;
  return CUBLAS_STATUS_SUCCESS;
}
CUBLAS_EXPORT cublasStatus_t cublasLtHeuristicsCacheSetCapacity(size_t capacity) {
  cache_capacity = capacity;
  return CUBLAS_STATUS_SUCCESS;
}
CUBLAS_EXPORT unsigned cublasLtDisableCpuInstructionsSetMask(unsigned mask) {
  return instructions_mask.exchange(mask);
}

// Nothing is logged, wherever to.
CUBLAS_EXPORT cublasStatus_t cublasLtLoggerSetCallback(cublasLtLoggerCallback_t) {
  return CUBLAS_STATUS_SUCCESS;
}
CUBLAS_EXPORT cublasStatus_t cublasLtLoggerSetFile(FILE*) {
  return CUBLAS_STATUS_SUCCESS;
}
CUBLAS_EXPORT cublasStatus_t cublasLtLoggerOpenFile(const char* path) {
  return path != nullptr ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
CUBLAS_EXPORT cublasStatus_t cublasLtLoggerSetLevel(int level) {
  return level >= 0 && level <= 5 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
CUBLAS_EXPORT cublasStatus_t cublasLtLoggerSetMask(int) {
  return CUBLAS_STATUS_SUCCESS;
}
CUBLAS_EXPORT cublasStatus_t cublasLtLoggerForceDisable() {
  return CUBLAS_STATUS_SUCCESS;
}
