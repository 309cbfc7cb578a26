#include "daemon/worker/client_contexts.hpp"

#include <algorithm>

namespace vgpu::worker {
namespace {
constexpr std::uint16_t max_contexts = 64;
}  // namespace

ClientContexts::ClientContexts(const SessionParts& parts) : driver_(parts.driver) {
  for (const ClientDevice& own : parts.devices()) {
    devices_.push_back({own.device, own.context, own.accounting, false, {}, {}});
  }
  for (OwnDevice& own : devices_) {
    contexts_.push_back(own.context);
    context_devices_.push_back(&own);
  }
  here_ = &devices_.front();
}

OwnDevice* ClientContexts::device(int number) {
  const auto place = static_cast<std::size_t>(number);
  return place < devices_.size() ? &devices_[place] : nullptr;
}

OwnDevice& ClientContexts::device_of(CUcontext context) {
  const auto found = std::find(contexts_.begin(), contexts_.end(), context);
  return found != contexts_.end() ? *context_devices_[static_cast<std::size_t>(found - contexts_.begin())]
                                  : *here_;
}

std::size_t ClientContexts::count() const {
  return contexts_.size() - static_cast<std::size_t>(std::count(contexts_.begin(), contexts_.end(), nullptr));
}

CUresult ClientContexts::switch_to(std::uint16_t index) {
  if (index == index_) return CUDA_SUCCESS;
  const CUcontext context = at(index);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  const CUresult result = driver_.cuCtxSetCurrent(context);
  if (result != CUDA_SUCCESS) return result;
  index_ = index;
  here_ = context_devices_[index];
  return result;
}

CUresult ClientContexts::may_add(std::uint16_t index) const {
  if (primary(index) || index >= max_contexts) return CUDA_ERROR_INVALID_VALUE;
  return at(index) != nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

void ClientContexts::add(std::uint16_t index, CUcontext context) {
  if (contexts_.size() <= index) {
    contexts_.resize(std::size_t{index} + 1);
    context_devices_.resize(contexts_.size(), here_);
  }
  contexts_[index] = context;
  context_devices_[index] = here_;
}

StreamKey ClientContexts::key_of(CUstream stream) const {
  if (stream == nullptr || stream == CU_STREAM_LEGACY) return {current(), nullptr};
  const auto found = streams_.find(stream);
  return {found != streams_.end() ? found->second : current(), stream};
}

void ClientContexts::remove_streams(CUcontext context) {
  std::erase_if(streams_, [context](const auto& entry) { return entry.second == context; });
}

void ClientContexts::to_driver(CUmemLocation& location) const {
  if (location.type != CU_MEM_LOCATION_TYPE_DEVICE) return;
  const auto number = static_cast<std::size_t>(location.id);
  location.id = number < devices_.size() ? devices_[number].device : -1;
}

void ClientContexts::to_client(CUmemAllocationProp& prop) const {
  if (prop.location.type != CU_MEM_LOCATION_TYPE_DEVICE) return;
  const auto found = std::find_if(devices_.begin(), devices_.end(),
                                  [&](const OwnDevice& own) { return own.device == prop.location.id; });
  prop.location.id = found != devices_.end() ? static_cast<int>(found - devices_.begin()) : 0;
}

}  // namespace vgpu::worker
