// The one algorithm there is here. Never: looks at operands.
#pragma once

#include <cublasLt.h>

namespace vgpu::cublas {

/// SUCCESS for the algorithm as it was given out, INVALID_VALUE for what is not one, NOT_SUPPORTED if it was
/// configured in a way that it does not have.
cublasStatus_t check_algorithm(const cublasLtMatmulAlgo_t* algorithm);

}  // namespace vgpu::cublas
