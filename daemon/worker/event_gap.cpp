#include "daemon/worker/event_gap.hpp"

#include <algorithm>
#include <array>

namespace vgpu::worker {
namespace {

// Long enough that both events are there before it ends.
constexpr std::size_t work_bytes = std::size_t{64} << 20;
constexpr std::uint64_t longest_sending_ns = 5'000;  // of one kernel

bool measure_once(const DriverTable& driver, CUdeviceptr memory, CUevent first, CUevent second, float& ms) {
  return driver.cuMemsetD8Async(memory, 0, work_bytes, nullptr) == CUDA_SUCCESS &&
         driver.cuEventRecord(first, nullptr) == CUDA_SUCCESS &&
         driver.cuEventRecord(second, nullptr) == CUDA_SUCCESS &&
         driver.cuStreamSynchronize(nullptr) == CUDA_SUCCESS &&
         driver.cuEventElapsedTime_v2(&ms, first, second) == CUDA_SUCCESS && ms >= 0;
}

}  // namespace

std::uint64_t event_gap_ns(const DriverTable& driver) {
  if (driver.cuMemAlloc_v2 == nullptr || driver.cuMemFree_v2 == nullptr ||
      driver.cuMemsetD8Async == nullptr || driver.cuEventCreate == nullptr ||
      driver.cuEventDestroy_v2 == nullptr || driver.cuEventRecord == nullptr ||
      driver.cuStreamSynchronize == nullptr || driver.cuEventElapsedTime_v2 == nullptr) {
    return 0;
  }
  std::array<float, 7> gaps{};
  bool measured = false;
  CUevent first = nullptr;
  CUevent second = nullptr;
  CUdeviceptr memory = 0;
  if (driver.cuEventCreate(&first, CU_EVENT_DEFAULT) == CUDA_SUCCESS &&
      driver.cuEventCreate(&second, CU_EVENT_DEFAULT) == CUDA_SUCCESS &&
      driver.cuMemAlloc_v2(&memory, work_bytes) == CUDA_SUCCESS) {
    measured = std::all_of(gaps.begin(), gaps.end(),
                           [&](float& gap) { return measure_once(driver, memory, first, second, gap); });
  }
  if (memory != 0) driver.cuMemFree_v2(memory);
  for (const CUevent event : {first, second}) {
    if (event != nullptr) driver.cuEventDestroy_v2(event);
  }
  if (!measured) return 0;
  std::nth_element(gaps.begin(), gaps.begin() + gaps.size() / 2, gaps.end());
  return static_cast<std::uint64_t>(static_cast<double>(gaps[gaps.size() / 2]) * 1e6);
}

std::uint64_t own_time_ns(std::uint64_t between_ns, std::uint64_t gap_ns, bool drained,
                          std::uint64_t sending_ns) {
  if (gap_ns == 0) return between_ns;
  // What takes long to send, such as a graph, begins before all of it has been sent.
  const std::uint64_t stood_still = drained ? std::min(sending_ns, longest_sending_ns) * 2 / 3 : 0;
  const std::uint64_t added = gap_ns * 2 + stood_still;
  // Nothing takes no time at all.
  return std::max(between_ns - std::min(between_ns, added), gap_ns / 4);
}

}  // namespace vgpu::worker
