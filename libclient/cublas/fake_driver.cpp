// A libcuda.so.1 for the test of our libcublas: a context, and the matrix operations carried out at once on
// host memory.

#include <cuda.h>

#include <cstring>

#include "cudaabi/blas_extension.hpp"
#include "softgpu/blas/execute.hpp"

#define FAKE_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

CUcontext the_context = nullptr;
CUstream last_stream = nullptr;

CUresult enqueue(CUstream stream, const cudaabi::BlasDescriptor* descriptor, std::size_t bytes) {
  if (bytes != sizeof *descriptor) return CUDA_ERROR_INVALID_VALUE;
  last_stream = stream;
  using softgpu::blas::Status;
  const Status status =
      softgpu::blas::execute(*descriptor, [](std::uint64_t, std::uint64_t) { return true; });
  return status == Status::ok ? CUDA_SUCCESS : CUDA_ERROR_LAUNCH_FAILED;
}

const cudaabi::BlasTable table{sizeof(cudaabi::BlasTable), enqueue};

}  // namespace

FAKE_EXPORT CUresult cuInit(unsigned) {
  return CUDA_SUCCESS;
}

FAKE_EXPORT CUresult cuGetExportTable(const void** out, const CUuuid* uuid) {
  const bool known = std::memcmp(uuid->bytes, cudaabi::blas_table_uuid.data(), sizeof uuid->bytes) == 0;
  *out = known ? &table : nullptr;
  return known ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

FAKE_EXPORT CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = the_context;
  return CUDA_SUCCESS;
}

FAKE_EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
  the_context = context;
  return CUDA_SUCCESS;
}

FAKE_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  static int object;
  *context = reinterpret_cast<CUcontext>(&object);
  return CUDA_SUCCESS;
}

/// For the test: the stream of the latest operation.
FAKE_EXPORT CUstream fake_last_stream() {
  return last_stream;
}
