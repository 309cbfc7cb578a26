#include "daemon/host_memory/huge_pages.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <thread>

namespace vgpu::host_memory {
namespace {

constexpr std::uint64_t small_page = 4096;
constexpr unsigned most_lanes = 14;

}  // namespace

std::byte* map_huge(std::uint64_t bytes) {
  void* const place = mmap(nullptr, bytes + huge_page, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(place);
  const auto at = reinterpret_cast<std::uint64_t>(place);
  const std::uint64_t before = in_huge_pages(at) - at;
  if (before != 0) munmap(begin, before);
  if (before != huge_page) munmap(begin + before + bytes, huge_page - before);
  madvise(begin + before, bytes, MADV_HUGEPAGE);
  return begin + before;
}

void take_pages(std::span<std::byte> range) {
  if (madvise(range.data(), range.size(), MADV_POPULATE_WRITE) == 0) return;
  // Before Linux 5.14. What cannot be had here is missed by whoever uses it.
  for (std::uint64_t at = 0; at < range.size(); at += small_page) {
    std::atomic_ref(range[at]).store(std::byte{0}, std::memory_order_relaxed);
  }
}

unsigned lanes() {
  return std::clamp(std::thread::hardware_concurrency() * 3 / 4, 1U, most_lanes);
}

}  // namespace vgpu::host_memory
