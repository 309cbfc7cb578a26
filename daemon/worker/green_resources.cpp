#include "daemon/worker/green_resources.hpp"

#include <cstring>

namespace vgpu::worker {

CUresult GreenResources::give(const CUdevResource& resource, CUdevResource& out) {
  if (resources_.size() >= most) return CUDA_ERROR_OUT_OF_MEMORY;
  resources_.push_back(resource);
  const std::uint64_t token = resources_.size();
  out = resource;
  std::memset(out._internal_padding, 0, sizeof out._internal_padding);
  std::memcpy(out._internal_padding, &token, sizeof token);
  return CUDA_SUCCESS;
}

std::uint64_t GreenResources::add(CUdevResourceDesc description) {
  descriptions_.push_back(description);
  return description_base + descriptions_.size();
}

bool GreenResources::description(std::uint64_t number, CUdevResourceDesc& out) const {
  if (number <= description_base || number - description_base > descriptions_.size()) return false;
  out = descriptions_[number - description_base - 1];
  return true;
}

}  // namespace vgpu::worker
