// What our libcublas and libcublasLt have in common: the way to the driver library's matrix operations, and
// how a descriptor's parts follow from what callers give. Never: knows handles, or one library's interface.
#pragma once

#include <cublas_api.h>

#include <cstdint>
#include <optional>

#include "cudaabi/blas_extension.hpp"

namespace vgpu::cublas {

/// The matrix operations of the process's libcuda.so.1, or nullptr if that has none. Makes the first device's
/// primary context current if the thread has no context, as cuBLAS does.
const cudaabi::BlasTable* driver_table();

/// What check_blas() thinks of it: SUCCESS, INVALID_VALUE or NOT_SUPPORTED.
cublasStatus_t judge(const cudaabi::BlasDescriptor& descriptor);

/// Puts the operation into the stream, after judging it: what judge() says, or EXECUTION_FAILED when the
/// driver refuses. An operation without elements is a success.
cublasStatus_t submit(const cudaabi::BlasTable& table, cudaStream_t stream,
                      const cudaabi::BlasDescriptor& descriptor);

/// An operand's place in a descriptor.
inline std::uint64_t address_of(const void* operand) {
  return reinterpret_cast<std::uint64_t>(operand);
}

/// Where alpha and beta are.
enum class Factors : std::uint8_t { host, device };

/// Sets a factor from the caller's pointer: read now, or by the device when the operation runs. False for a
/// null pointer.
bool set_factor(Factors where, const void* from, cudaabi::BlasElement type, cudaabi::BlasScalar& out);

/// The element type of operands, or nothing if that is not carried out.
std::optional<cudaabi::BlasElement> element_of(cudaDataType type);

/// The type in which products are summed; alpha and beta have it too. Faster, less exact variants are done
/// exactly.
std::optional<cudaabi::BlasElement> sum_type_of(cublasComputeType_t type);

}  // namespace vgpu::cublas
