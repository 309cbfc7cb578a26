// Context-local storage: values that NVIDIA's runtime and libraries keep with a context under keys of their
// own (export table c693336e). Knows contexts only as keys.
#pragma once

#include <cuda.h>

namespace cudaabi {

/// Runs when a value is dropped with its context.
using StorageDestructor = void (*)(CUcontext context, void* key, void* value);

/// Stores `value` under (context, key), replacing what was there without running its destructor.
void context_storage_put(CUcontext context, void* key, void* value, StorageDestructor destructor);
/// The value under (context, key); CUDA_ERROR_INVALID_HANDLE when there is none.
CUresult context_storage_get(CUcontext context, void* key, void** value);
/// Removes (context, key) without running its destructor; CUDA_ERROR_INVALID_HANDLE when there is none.
CUresult context_storage_delete(CUcontext context, void* key);
/// Removes all of a context's values and runs their destructors: a library calls it when a context ends or is
/// reset.
void context_storage_drop(CUcontext context);

}  // namespace cudaabi
