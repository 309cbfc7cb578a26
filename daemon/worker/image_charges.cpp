#include "daemon/worker/image_charges.hpp"

#include <utility>

#include "daemon/worker/image_variables.hpp"

namespace vgpu::worker {

ImageCharges::ImageCharges(const SessionParts& parts) : driver_(parts.driver) {
  for (const ClientDevice& own : parts.devices()) devices_.push_back({own.device, own.accounting});
}

CUresult ImageCharges::capability(std::size_t here, std::uint32_t& value) {
  const CUresult result = ask_capability(devices_[here]);
  value = devices_[here].capability;
  return result;
}

CUresult ImageCharges::ask_capability(Device& device) const {
  if (device.capability == 0 && driver_.cuDeviceGetAttribute != nullptr) {
    int major = 0;
    int minor = 0;
    CUresult result =
        driver_.cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device.device);
    if (result == CUDA_SUCCESS)
      result =
          driver_.cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device.device);
    if (result != CUDA_SUCCESS) return result;
    device.capability = static_cast<std::uint32_t>(major * 10 + minor);
  }
  return CUDA_SUCCESS;
}

CUresult ImageCharges::size(Device& device, std::span<const std::byte> image, std::uint64_t& bytes) const {
  if (const CUresult result = ask_capability(device); result != CUDA_SUCCESS) return result;
  const auto found = variable_bytes(image, device.capability);
  // No compiler writes such an image; it may be an attempt to get memory that nobody counts.
  if (!found) return CUDA_ERROR_INVALID_IMAGE;
  bytes = *found;
  return CUDA_SUCCESS;
}

CUresult ImageCharges::charge(std::span<const std::byte> image, std::size_t here, bool everywhere,
                              Held& held) {
  // To look into images takes time: who has no quota needs none of it.
  if (devices_[here].accounting->page().memory_quota.load(std::memory_order_relaxed) == 0)
    return CUDA_SUCCESS;
  auto all = std::make_shared<std::deque<Charge>>();
  for (std::size_t place = 0; place < devices_.size(); ++place) {
    if (!everywhere && place != here) continue;
    Device& device = devices_[place];
    std::uint64_t bytes = 0;
    if (const CUresult result = size(device, image, bytes); result != CUDA_SUCCESS) return result;
    if (bytes == 0) continue;
    if (!device.accounting->charge(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    all->emplace_back(*device.accounting, bytes);
  }
  if (!all->empty()) held = std::move(all);
  return CUDA_SUCCESS;
}

void ImageCharges::keep(std::uint64_t handle, Held held) {
  if (held != nullptr) kept_[handle] = std::move(held);
}

ImageCharges::Held ImageCharges::take(std::uint64_t handle) {
  const auto found = kept_.find(handle);
  if (found == kept_.end()) return nullptr;
  Held held = std::move(found->second);
  kept_.erase(found);
  return held;
}

std::vector<ImageCharges::Held> ImageCharges::take_if(const std::function<bool(std::uint64_t handle)>& lost) {
  std::vector<Held> taken;
  std::erase_if(kept_, [&](auto& entry) {
    if (!lost(entry.first)) return false;
    taken.push_back(std::move(entry.second));
    return true;
  });
  return taken;
}

}  // namespace vgpu::worker
