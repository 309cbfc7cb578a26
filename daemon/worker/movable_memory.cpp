#include "daemon/worker/movable_memory.hpp"

#include <algorithm>
#include <vector>

namespace vgpu::worker {
namespace {

constexpr std::uint64_t small_bytes = std::uint64_t{1} << 20;  // up to here allocations share memory
constexpr std::uint64_t alignment = 512;                       // of all addresses that cuMemAlloc gives

std::uint64_t aligned(std::uint64_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

MovableMemory::MovableMemory(const DriverTable& driver, CUdevice device, CUcontext context)
    : driver_(driver), device_(device), context_(context), store_(driver, context) {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  std::size_t unit = 0;
  if (driver.cuMemGetAllocationGranularity(&unit, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) ==
          CUDA_SUCCESS &&
      unit != 0) {
    unit_ = unit;
  }
}

MovableMemory::~MovableMemory() {
  for (auto& [address, extent] : extents_) {
    if (extent.memory != 0) drop(address, extent);
    driver_.cuMemAddressFree(address, extent.bytes);
  }
}

bool MovableMemory::supported(const DriverTable& driver) {
  return driver.cuMemAddressReserve != nullptr && driver.cuMemAddressFree != nullptr &&
         driver.cuMemCreate != nullptr && driver.cuMemRelease != nullptr && driver.cuMemMap != nullptr &&
         driver.cuMemUnmap != nullptr && driver.cuMemSetAccess != nullptr &&
         driver.cuMemGetAllocationGranularity != nullptr && driver.cuMemHostAlloc != nullptr &&
         driver.cuMemFreeHost != nullptr && driver.cuStreamCreateWithPriority != nullptr &&
         driver.cuStreamDestroy_v2 != nullptr && driver.cuStreamSynchronize != nullptr &&
         driver.cuEventCreate != nullptr && driver.cuEventDestroy_v2 != nullptr &&
         driver.cuEventRecord != nullptr && driver.cuEventSynchronize != nullptr &&
         driver.cuMemcpyDtoHAsync_v2 != nullptr && driver.cuMemcpyHtoDAsync_v2 != nullptr &&
         driver.cuCtxSetCurrent != nullptr;
}

std::uint64_t MovableMemory::rounded(std::uint64_t bytes) const {
  return (bytes + unit_ - 1) / unit_ * unit_;
}

CUresult MovableMemory::bring(std::uint64_t address, Extent& extent) {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, device_};
  CUmemGenericAllocationHandle memory = 0;
  CUresult result = driver_.cuMemCreate(&memory, extent.bytes, &prop, 0);
  if (result != CUDA_SUCCESS) return result;
  result = driver_.cuMemMap(address, extent.bytes, 0, memory, 0);
  if (result == CUDA_SUCCESS) {
    CUmemAccessDesc access{};
    access.location = prop.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    result = driver_.cuMemSetAccess(address, extent.bytes, &access, 1);
    if (result != CUDA_SUCCESS) driver_.cuMemUnmap(address, extent.bytes);
  }
  if (result != CUDA_SUCCESS) {
    driver_.cuMemRelease(memory);
    return result;
  }
  extent.memory = memory;
  return CUDA_SUCCESS;
}

CUresult MovableMemory::drop(std::uint64_t address, Extent& extent) {
  const CUresult unmapped = driver_.cuMemUnmap(address, extent.bytes);
  const CUresult released = driver_.cuMemRelease(extent.memory);
  extent.memory = 0;
  return unmapped != CUDA_SUCCESS ? unmapped : released;
}

CUresult MovableMemory::add_extent(std::uint64_t bytes, Extents::iterator& extent) {
  CUdeviceptr address = 0;
  CUresult result = driver_.cuMemAddressReserve(&address, bytes, 0, 0, 0);
  if (result != CUDA_SUCCESS) return result;
  Extent fresh;
  fresh.bytes = bytes;
  result = bring(address, fresh);
  if (result != CUDA_SUCCESS) {
    driver_.cuMemAddressFree(address, bytes);
    return result;
  }
  bytes_ += bytes;
  extent = extents_.emplace(address, std::move(fresh)).first;
  return CUDA_SUCCESS;
}

bool MovableMemory::has_hole(std::uint64_t bytes) const {
  return std::any_of(extents_.begin(), extents_.end(), [bytes](const auto& extent) {
    const auto& holes = extent.second.holes;
    return std::any_of(holes.begin(), holes.end(),
                       [bytes](const auto& hole) { return hole.second >= bytes; });
  });
}

bool MovableMemory::take_hole(std::uint64_t bytes, CUdeviceptr& pointer) {
  for (auto& [address, extent] : extents_) {
    for (auto hole = extent.holes.begin(); hole != extent.holes.end(); ++hole) {
      if (hole->second < bytes) continue;
      pointer = hole->first;
      const std::uint64_t rest = hole->second - bytes;
      extent.holes.erase(hole);
      if (rest != 0) extent.holes.emplace(pointer + bytes, rest);
      small_.emplace(pointer, bytes);
      return true;
    }
  }
  return false;
}

void MovableMemory::give_hole(Extents::iterator extent, std::uint64_t address, std::uint64_t bytes) {
  auto& holes = extent->second.holes;
  auto hole = holes.emplace(address, bytes).first;
  if (const auto next = std::next(hole); next != holes.end() && address + bytes == next->first) {
    hole->second += next->second;
    holes.erase(next);
  }
  if (hole != holes.begin()) {
    const auto before = std::prev(hole);
    if (before->first + before->second == hole->first) {
      before->second += hole->second;
      holes.erase(hole);
    }
  }
}

std::uint64_t MovableMemory::growth(std::uint64_t bytes) const {
  const std::lock_guard lock(mutex_);
  return bytes <= small_bytes && has_hole(aligned(bytes)) ? 0 : rounded(bytes);
}

CUresult MovableMemory::allocate(std::uint64_t bytes, CUdeviceptr& pointer) {
  const std::lock_guard lock(mutex_);
  if (out_) return CUDA_ERROR_NOT_READY;
  const bool small = bytes <= small_bytes;
  if (small && take_hole(aligned(bytes), pointer)) return CUDA_SUCCESS;
  auto extent = extents_.end();
  if (const CUresult result = add_extent(rounded(bytes), extent); result != CUDA_SUCCESS) return result;
  pointer = extent->first;
  if (!small) return CUDA_SUCCESS;
  extent->second.shared = true;
  extent->second.holes.emplace(extent->first, extent->second.bytes);
  take_hole(aligned(bytes), pointer);
  return CUDA_SUCCESS;
}

bool MovableMemory::owns(CUdeviceptr pointer) const {
  const std::lock_guard lock(mutex_);
  if (small_.contains(pointer)) return true;
  const auto extent = extents_.find(pointer);
  return extent != extents_.end() && !extent->second.shared;
}

CUresult MovableMemory::release(CUdeviceptr pointer, std::uint64_t& less) {
  Extents::node_type gone;
  {
    const std::lock_guard lock(mutex_);
    auto extent = extents_.find(pointer);
    if (const auto small = small_.find(pointer); small != small_.end()) {
      extent = std::prev(extents_.upper_bound(pointer));
      give_hole(extent, pointer, small->second);
      small_.erase(small);
      less = 0;
      if (extent->second.holes.begin()->second != extent->second.bytes) return CUDA_SUCCESS;
    } else if (extent == extents_.end() || extent->second.shared) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    less = extent->second.bytes;
    bytes_ -= less;
    gone = extents_.extract(extent);
  }
  if (gone.mapped().memory != 0) drop(gone.key(), gone.mapped());
  return driver_.cuMemAddressFree(gone.key(), gone.mapped().bytes);
}

std::uint64_t MovableMemory::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

CUresult MovableMemory::move_out() {
  const std::lock_guard lock(mutex_);
  if (out_) return CUDA_SUCCESS;
  if (!store_.resize(bytes_)) return CUDA_ERROR_OUT_OF_MEMORY;
  std::vector<HostStore::Piece> pieces;
  std::uint64_t place = 0;
  for (auto& [address, extent] : extents_) {
    extent.place = place;
    pieces.push_back({address, place, extent.bytes});
    place += extent.bytes;
  }
  if (const CUresult result = store_.save(pieces); result != CUDA_SUCCESS) return result;
  for (auto& [address, extent] : extents_) drop(address, extent);
  out_ = true;
  store_.pin_meanwhile();
  return CUDA_SUCCESS;
}

CUresult MovableMemory::move_in() {
  const std::lock_guard lock(mutex_);
  if (!out_) return CUDA_SUCCESS;
  CUresult result = CUDA_SUCCESS;
  std::vector<HostStore::Piece> pieces;
  for (auto& [address, extent] : extents_) {
    result = bring(address, extent);
    if (result != CUDA_SUCCESS) break;
    pieces.push_back({address, extent.place, extent.bytes});
  }
  if (result == CUDA_SUCCESS) result = store_.restore(pieces);
  if (result != CUDA_SUCCESS) {
    for (auto& [address, extent] : extents_) {
      if (extent.memory != 0) drop(address, extent);
    }
    return result;
  }
  out_ = false;
  return CUDA_SUCCESS;
}

}  // namespace vgpu::worker
