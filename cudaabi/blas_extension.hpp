// An extension of our libcudas beyond CUDA's driver API: one matrix operation, carried out in stream order by
// whoever stands behind the stream. Our libcublas and libcublasLt find it through cuGetExportTable. It exists
// because the software GPU cannot run cuBLAS's machine code. The descriptor is plain data without host
// pointers: it travels between processes as it is, and whoever executes it checks every field.
#pragma once

#include <cuda.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace cudaabi {

inline constexpr std::array<unsigned char, 16> blas_table_uuid = {'s', 'o', 'f', 't', 'g', 'p', 'u', '-',
                                                                  'b', 'l', 'a', 's', '-', '0', '0', '2'};

enum class BlasElement : std::uint32_t { f32 = 0, f16 = 1, bf16 = 2, f64 = 3 };
enum class BlasOperation : std::uint32_t {
  gemm = 0,  ///< D = activation(alpha op(A) op(B) + beta C + bias)
  trsm = 1,  ///< solves op(A) X = alpha B or X op(A) = alpha B; X replaces B, C and D are unused
  sum = 2,   ///< D = alpha op(A) + beta op(B), element by element; C is unused
};
/// What happens to each element of a product before it is rounded to D's type.
enum class BlasActivation : std::uint32_t {
  none = 0,
  relu = 1,  ///< max(x, 0)
  gelu = 2,  ///< by the approximation with tanh, as cublasLt does it
};
enum class BlasBatch : std::uint32_t {
  strided = 0,   ///< an operand's address is that of the first matrix
  pointers = 1,  ///< an operand's address is that of an array of 64-bit device addresses
};

/// A matrix, or a batch of them, in column-major order in device memory.
struct BlasMatrix {
  std::uint64_t address = 0;
  std::int64_t leading = 0;  ///< elements from column to column
  std::int64_t stride = 0;   ///< elements from matrix to matrix (BlasBatch::strided)
  BlasElement type = BlasElement::f32;
  std::uint32_t transpose = 0;  ///< 0 or 1; 0 for C and D
};

/// A factor: the value, or where to read it (as `scalar_type`) when the operation runs.
struct BlasScalar {
  double value = 0;
  std::uint64_t address = 0;  ///< 0: `value` counts
};

/// A vector that is added to every column of D, or to every row.
struct BlasBias {
  std::uint64_t address = 0;  ///< 0: there is none
  std::int64_t stride = 0;    ///< elements from one matrix's vector to the next one's, in both kinds of batch
  BlasElement type = BlasElement::f32;
  std::uint32_t to_rows = 0;  ///< 0: an element for each row of D; 1: one for each column
};

struct BlasDescriptor {
  BlasOperation operation = BlasOperation::gemm;
  BlasBatch batch = BlasBatch::strided;
  BlasElement scalar_type = BlasElement::f32;
  std::uint32_t right_side = 0, upper = 0, unit_diagonal = 0;  ///< trsm
  /// op(A) is m x k and op(B) k x n; for trsm B, for a sum all are m x n.
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t batches = 1;
  /// D may be C, or for a sum A or B; else they do not overlap. What a factor of zero belongs to is not read.
  BlasMatrix a, b, c, d;
  BlasScalar alpha, beta;
  BlasBias bias;
  BlasActivation activation = BlasActivation::none;
  std::uint32_t reserved = 0;  ///< 0
};
static_assert(sizeof(BlasDescriptor) == 248);

/// Rows and columns of a matrix as it lies in memory, before transposition.
struct BlasShape {
  std::int64_t rows = 0, columns = 0;
};
BlasShape blas_shape_a(const BlasDescriptor& descriptor);
BlasShape blas_shape_b(const BlasDescriptor& descriptor);

/// True when D takes C's place in memory, matrix by matrix.
bool blas_in_place(const BlasDescriptor& descriptor);

/// Bytes of one element; 0 for a type that does not exist.
std::uint64_t blas_element_bytes(BlasElement type);

enum class BlasCheck : std::uint8_t {
  ok,
  invalid,      ///< makes no sense: negative or contradictory sizes, unknown enumerators
  unsupported,  ///< sensible, but of types or sizes (beyond 2^31-1) that are not carried out
};

/// Judges a descriptor as far as possible without touching memory; for both its author and its hostile
/// reader.
BlasCheck check_blas(const BlasDescriptor& descriptor);

/// What stands behind blas_table_uuid.
struct BlasTable {
  std::size_t size = sizeof(BlasTable);
  /// Puts the operation into the stream (captured like a kernel launch) and returns; the descriptor is
  /// copied. `bytes` is sizeof(BlasDescriptor). CUDA_ERROR_NOT_SUPPORTED where nothing can execute it,
  /// INVALID_VALUE for an impossible one.
  CUresult (*enqueue)(CUstream stream, const BlasDescriptor* descriptor, std::size_t bytes) = nullptr;
};

}  // namespace cudaabi
