// cuGetExportTable: the private tables of functions that NVIDIA's runtime and libraries fetch by UUID.
// Answers those that they cannot do without (docs/compatibility.md lists them), refuses the rest, and counts
// every slot that nobody knows. Facts: public record and observation of CUDA 13.0's libraries (see
// docs/compatibility.md).
#pragma once

#include <cuda.h>

namespace cudaabi {

/// The table of that UUID; CUDA_ERROR_NOT_FOUND and *table = nullptr for one that is not offered.
CUresult get_export_table(const void** table, const CUuuid* id);

}  // namespace cudaabi
