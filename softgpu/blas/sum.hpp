// Sums of two matrices, which also change types, transpose, and scale.
#pragma once

#include "cudaabi/blas_extension.hpp"
#include "softgpu/blas/execute.hpp"
#include "softgpu/blas/matrices.hpp"

namespace softgpu::blas {

/// Carries out a BlasOperation::sum that check_blas() has found in order.
Status run_sum(const cudaabi::BlasDescriptor& descriptor, Factors factors, const Accessible& accessible);

}  // namespace softgpu::blas
