#include "cudaabi/memory_forms.hpp"

#include "cudaabi/unsupported.hpp"

namespace cudaabi {

CUresult device_of_pools(const CUmemLocation* location, CUmemAllocationType type, CUdevice& device) {
  if (location == nullptr || type == CU_MEM_ALLOCATION_TYPE_INVALID) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_ALLOCATION_TYPE_PINNED)
    return static_cast<CUresult>(note_unsupported("pools of managed memory"));
  switch (location->type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
      device = location->id;
      return CUDA_SUCCESS;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
      return static_cast<CUresult>(note_unsupported("pools of host memory"));
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult prefetch_batch(const PrefetchList& list, unsigned long long flags,
                        CUresult (*prefetch)(CUdeviceptr, std::size_t, CUmemLocation, unsigned, CUstream),
                        CUstream stream) {
  const AttributeRuns<CUmemLocation>& locations = list.locations;
  if (list.pointers == nullptr || list.sizes == nullptr || !locations.cover(list.count) || flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  std::size_t where = 0;
  for (std::size_t i = 0; i < list.count; ++i) {
    if (where + 1 < locations.count && locations.first_of[where + 1] == i) ++where;
    const CUresult result = prefetch(list.pointers[i], list.sizes[i], locations.values[where], 0, stream);
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

}  // namespace cudaabi
