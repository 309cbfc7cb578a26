// cuGetProcAddress: which export answers to a name, at which version, with which default stream.
#pragma once

#include <cuda.h>

namespace cudaabi {

/// Finds `name` in the newest ABI that `version` (CUDA_VERSION form, 12000) knows. `flags` are
/// CU_GET_PROC_ADDRESS_*; with PER_THREAD_DEFAULT_STREAM the _ptsz/_ptds variant is taken where there is one.
/// An unknown name: *function = nullptr, *status = SYMBOL_NOT_FOUND; a known one that is newer than
/// `version`: VERSION_NOT_SUFFICIENT; CUDA_SUCCESS in both cases, as cuda.h documents it. `status` may be
/// null. CUDA_ERROR_INVALID_VALUE for null arguments or unknown flags. Thread-safe.
CUresult get_proc_address(const char* name, void** function, int version, cuuint64_t flags,
                          CUdriverProcAddressQueryResult* status);

}  // namespace cudaabi
