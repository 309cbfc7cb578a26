// How our libcublas and libcublasLt call themselves and their results; the versions are those of the headers
// they were compiled with.
#pragma once

#include <cublas_api.h>

namespace vgpu::cublas {

/// cublasGetProperty() and cublasLtGetProperty().
cublasStatus_t property(libraryPropertyType type, int* value);

/// The enumerator's name.
const char* status_name(cublasStatus_t status);
/// What it means, in a few words.
const char* status_text(cublasStatus_t status);

}  // namespace vgpu::cublas
