#include "daemon/worker/stream_hold.hpp"

#include <new>

#include "protocol/futex.hpp"

namespace vgpu::worker {
namespace {

constexpr std::uint64_t longest_sleep_ns = 1'000'000'000;

}  // namespace

StreamHold::StreamHold(const DriverTable& driver, std::uint64_t patience_ns)
    : driver_(driver), patience_ns_(patience_ns) {
  if (driver.cuStreamWaitValue32_v2 == nullptr || driver.cuMemHostAlloc == nullptr ||
      driver.cuMemHostGetDevicePointer_v2 == nullptr || driver.cuMemFreeHost == nullptr) {
    return;
  }
  void* memory = nullptr;
  constexpr unsigned flags = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP;
  if (driver.cuMemHostAlloc(&memory, sizeof *word_, flags) != CUDA_SUCCESS) return;
  if (driver.cuMemHostGetDevicePointer_v2(&device_word_, memory, 0) != CUDA_SUCCESS) {
    driver.cuMemFreeHost(memory);
    return;
  }
  word_ = new (memory) std::atomic<std::uint32_t>(0);
}

StreamHold::~StreamHold() {
  stopped_.store(1);
  futex_wake(stopped_);
  held_.fetch_add(1);
  futex_wake(held_);
  if (guard_.joinable()) guard_.join();
  if (word_ != nullptr) driver_.cuMemFreeHost(word_);
}

bool StreamHold::begin(CUstream stream) {
  if (word_ == nullptr) return false;
  if (!guard_.joinable()) guard_ = std::thread([this] { guard(); });
  const std::uint32_t number = held_.load(std::memory_order_relaxed) + 1;
  if (driver_.cuStreamWaitValue32_v2(stream, device_word_, number, CU_STREAM_WAIT_VALUE_GEQ) !=
      CUDA_SUCCESS) {
    return false;
  }
  held_.store(number);
  if (asleep_.load() != 0) futex_wake(held_);
  return true;
}

void StreamHold::guard() {
  while (stopped_.load() == 0) {
    const std::uint32_t number = held_.load();
    if (word_->load() == number) {
      asleep_.store(1);
      futex_wait(held_, number, longest_sleep_ns);
      asleep_.store(0);
      continue;
    }
    const std::uint64_t until = now_ns() + patience_ns_;
    for (std::uint64_t now = now_ns(); now < until && stopped_.load() == 0; now = now_ns()) {
      futex_wait(stopped_, 0, until - now);
    }
    // Not one that came meanwhile: that has its own time.
    std::uint32_t before = number - 1;
    if (held_.load() == number) word_->compare_exchange_strong(before, number);
  }
}

}  // namespace vgpu::worker
