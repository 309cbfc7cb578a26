#include "daemon/worker/shared_objects.hpp"

#include <algorithm>

namespace vgpu::worker {

std::optional<IpcToken> SharedObjects::offered(std::uint64_t handle) const {
  const auto known = tokens_.find(handle);
  return known != tokens_.end() ? std::optional(known->second) : std::nullopt;
}

void SharedObjects::withdraw(std::uint64_t handle) {
  const auto known = tokens_.find(handle);
  if (known == tokens_.end()) return;
  ipc_.withdraw(known->second);
  tokens_.erase(known);
}

std::optional<IpcToken> SharedObjects::offered(const std::shared_ptr<Charge>& allocation) const {
  const auto known = std::find_if(allocations_.begin(), allocations_.end(),
                                  [&](const auto& entry) { return entry.first.lock() == allocation; });
  return known != allocations_.end() ? std::optional(known->second) : std::nullopt;
}

void SharedObjects::withdraw_released() {
  std::erase_if(allocations_, [this](const auto& entry) {
    if (!entry.first.expired()) return false;
    ipc_.withdraw(entry.second);
    return true;
  });
}

void SharedObjects::opened(CUdeviceptr pointer, std::uint16_t context) {
  Opened& opened = opened_[pointer];
  ++opened.count;
  opened.context = context;
}

std::optional<std::uint32_t> SharedObjects::closed(CUdeviceptr pointer) {
  const auto found = opened_.find(pointer);
  if (found == opened_.end()) return std::nullopt;
  const std::uint32_t left = --found->second.count;
  if (left == 0) opened_.erase(found);
  return left;
}

void SharedObjects::forget_opened(std::optional<std::uint16_t> context,
                                  const std::function<void(CUdeviceptr)>& close) {
  std::erase_if(opened_, [&](const auto& entry) {
    if (context && entry.second.context != *context) return false;
    for (std::uint32_t i = 0; close && i < entry.second.count; ++i) close(entry.first);
    return true;
  });
}

}  // namespace vgpu::worker
