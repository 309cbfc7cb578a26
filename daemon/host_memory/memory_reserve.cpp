#include "daemon/host_memory/memory_reserve.hpp"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <span>

#include "daemon/host_memory/huge_pages.hpp"

namespace vgpu::host_memory {
namespace {

std::size_t chunks(std::uint64_t bytes) {
  return static_cast<std::size_t>((bytes + chunk_bytes - 1) / chunk_bytes);
}

}  // namespace

MemoryReserve::MemoryReserve(std::uint64_t most, std::function<std::uint64_t()> spare)
    : spare_(std::move(spare)),
      data_(map_huge(chunks(most) * chunk_bytes)),
      taken_(data_ != nullptr ? chunks(most) : 0),
      settled_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

MemoryReserve::~MemoryReserve() {
  stop();
  if (data_ != nullptr) munmap(data_, taken_.size() * chunk_bytes);
}

void MemoryReserve::stop() {
  for (std::jthread& one : crew_) one.request_stop();
  crew_.clear();
}

void MemoryReserve::aim(std::uint64_t bytes) {
  stop();
  settled();  // of what was aimed at before
  const std::size_t wanted = std::min(chunks(bytes), taken_.size());
  for (std::size_t i = taken_.size(); i-- != 0 && held_ > wanted * chunk_bytes;) {
    if (taken_[i] == 0) continue;
    madvise(data_ + i * chunk_bytes, chunk_bytes, MADV_DONTNEED);
    taken_[i] = 0;
    held_ -= chunk_bytes;
  }
  missing_.clear();
  for (std::size_t i = 0; i < taken_.size() && missing_.size() < wanted - held_ / chunk_bytes; ++i) {
    if (taken_[i] == 0) missing_.push_back(i);
  }
  next_ = 0;
  const std::size_t count = std::min<std::size_t>(lanes(), missing_.size());
  if (count == 0) {
    eventfd_write(settled_.get(), 1);
    return;
  }
  working_ = count;
  for (std::size_t i = 0; i < count; ++i) {
    crew_.emplace_back([this](const std::stop_token& stop) { lane(stop); });
  }
}

void MemoryReserve::lane(const std::stop_token& stop) {
  setpriority(PRIO_PROCESS, 0, 19);  // of this thread alone
  for (std::size_t i = next_++; i < missing_.size() && !stop.stop_requested(); i = next_++) {
    if (spare_() < chunk_bytes) break;
    const std::size_t chunk = missing_[i];
    take_pages({data_ + chunk * chunk_bytes, chunk_bytes});
    taken_[chunk] = 1;
    held_ += chunk_bytes;
  }
  if (--working_ == 0 && !stop.stop_requested()) eventfd_write(settled_.get(), 1);
}

void MemoryReserve::settled() {
  eventfd_t count = 0;
  eventfd_read(settled_.get(), &count);
}

}  // namespace vgpu::host_memory
