#include "libclient/cuda/mirrors.hpp"

#include <sys/mman.h>

#include <algorithm>

#include "cudaabi/managed_advice.hpp"
#include "libclient/cuda/copy.hpp"
#include "protocol/address_space.hpp"

namespace vgpu::client {
namespace {

// Maps what is not mapped yet of the pages around a variable; pages of a mirror made before are kept.
bool map_pages(std::uint64_t address, std::size_t size, const auto& is_mirrored) {
  const std::uint64_t begin = address / host_page * host_page;
  for (std::uint64_t page = begin; page < address + size; page += host_page) {
    if (is_mirrored(page)) continue;
    void* mapped = mmap(from_bits<void*>(page), host_page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (mapped == MAP_FAILED) return false;
    if (bits(mapped) != page) {
      munmap(mapped, host_page);
      return false;
    }
  }
  return true;
}

}  // namespace

CUresult Mirrors::add(Call& call, std::uint64_t address, std::size_t size, std::uint64_t owner) {
  const std::lock_guard lock(mutex_);
  for (const Mirror& mirror : mirrors_) {
    if (mirror.address == address) return CUDA_SUCCESS;
  }
  const auto mirrored = [this](std::uint64_t page) {
    return std::any_of(mirrors_.begin(), mirrors_.end(), [page](const Mirror& mirror) {
      return page + host_page > mirror.address && page < mirror.address + mirror.size;
    });
  };
  if (!map_pages(address, size, mirrored)) return CUDA_ERROR_NOT_SUPPORTED;
  MemoryRange range;
  range.base = address;
  range.size = size;
  range.kind = MemoryKind::managed;
  range.flags = CU_MEM_ATTACH_GLOBAL;
  range.context = call.process().contexts.primary().handle;
  range.owner = owner;
  range.device = address;
  range.advice = std::make_shared<cudaabi::ManagedAdvice>();
  call.process().memory.insert(range);
  moving_ = true;
  const CUresult result =
      copy_from_device(call, from_bits<void*>(address), address, size, 0, CopyMode::synchronous);
  moving_ = false;
  if (result != CUDA_SUCCESS) return result;
  mirrors_.push_back({address, size, owner});
  any_.store(true, std::memory_order_release);
  return CUDA_SUCCESS;
}

void Mirrors::remove(std::uint64_t owner) {
  const std::lock_guard lock(mutex_);
  std::erase_if(mirrors_, [owner](const Mirror& mirror) { return mirror.owner == owner; });
  any_.store(!mirrors_.empty(), std::memory_order_release);
}

void Mirrors::before_work(Call& call) {
  if (with_device_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(mutex_);
  if (moving_ || with_device_.load(std::memory_order_relaxed)) return;
  moving_ = true;
  for (const Mirror& mirror : mirrors_) {
    static_cast<void>(copy_to_device(call, mirror.address, from_bits<const void*>(mirror.address),
                                     mirror.size, 0, CopyMode::synchronous));
  }
  // Streams that the default stream does not order must find the contents too.
  static_cast<void>(synchronize(call, 0));
  moving_ = false;
  with_device_.store(true, std::memory_order_release);
}

void Mirrors::after_wait(Call& call) {
  if (!with_device_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(mutex_);
  if (moving_ || !with_device_.load(std::memory_order_relaxed)) return;
  moving_ = true;
  for (const Mirror& mirror : mirrors_) {
    static_cast<void>(copy_from_device(call, from_bits<void*>(mirror.address), mirror.address, mirror.size, 0,
                                       CopyMode::synchronous));
  }
  moving_ = false;
  with_device_.store(false, std::memory_order_release);
}

}  // namespace vgpu::client
