#include "daemon/worker/movable_memory.hpp"

#include <algorithm>

namespace vgpu::worker {
namespace {

constexpr std::uint64_t small_bytes = std::uint64_t{1} << 20;  // up to here allocations share memory
constexpr std::uint64_t longest_block = std::uint64_t{256} << 20;
constexpr std::uint64_t blocks_a_device = 64;
constexpr std::uint64_t blocks_a_part = 4;
constexpr std::uint64_t alignment = 512;  // of all addresses that cuMemAlloc gives

std::uint64_t aligned(std::uint64_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

MovableMemory::MovableMemory(const DriverTable& driver, CUdevice device, CUcontext context)
    : driver_(driver), device_(device), store_(driver, context) {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  std::size_t unit = 0;
  if (driver.cuMemGetAllocationGranularity(&unit, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) ==
          CUDA_SUCCESS &&
      unit != 0) {
    unit_ = unit;
  }
  std::size_t total = 0;
  if (driver.cuDeviceTotalMem_v2 != nullptr && driver.cuDeviceTotalMem_v2(&total, device) == CUDA_SUCCESS) {
    block_ = rounded(std::clamp<std::uint64_t>(total / blocks_a_device, 1, longest_block));
  }
}

MovableMemory::~MovableMemory() {
  for (auto& [address, extent] : extents_) {
    drop_all(address, extent);
    driver_.cuMemAddressFree(address, extent.bytes);
  }
}

bool MovableMemory::supported(const DriverTable& driver, CUdevice device) {
  int virtual_memory = 0;
  if (driver.cuDeviceGetAttribute == nullptr ||
      driver.cuDeviceGetAttribute(&virtual_memory, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                                  device) != CUDA_SUCCESS ||
      virtual_memory == 0) {
    return false;
  }
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

CUresult MovableMemory::bring(std::uint64_t address, Block& block) {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, device_};
  CUmemGenericAllocationHandle memory = 0;
  CUresult result = driver_.cuMemCreate(&memory, block.bytes, &prop, 0);
  if (result != CUDA_SUCCESS) return result;
  result = driver_.cuMemMap(address, block.bytes, 0, memory, 0);
  if (result == CUDA_SUCCESS) {
    CUmemAccessDesc access{};
    access.location = prop.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    result = driver_.cuMemSetAccess(address, block.bytes, &access, 1);
    if (result != CUDA_SUCCESS) driver_.cuMemUnmap(address, block.bytes);
  }
  if (result != CUDA_SUCCESS) {
    driver_.cuMemRelease(memory);
    return result;
  }
  block.memory = memory;
  return CUDA_SUCCESS;
}

CUresult MovableMemory::drop(std::uint64_t address, Block& block) {
  const CUresult unmapped = driver_.cuMemUnmap(address, block.bytes);
  const CUresult released = driver_.cuMemRelease(block.memory);
  block.memory = 0;
  return unmapped != CUDA_SUCCESS ? unmapped : released;
}

void MovableMemory::drop_all(std::uint64_t address, Extent& extent) {
  for (Block& block : extent.blocks) {
    if (block.memory != 0) drop(address, block);
    address += block.bytes;
  }
}

CUresult MovableMemory::add_extent(std::uint64_t bytes, Extents::iterator& extent) {
  CUdeviceptr address = 0;
  CUresult result = driver_.cuMemAddressReserve(&address, bytes, 0, 0, 0);
  if (result != CUDA_SUCCESS) return result;
  Extent fresh;
  fresh.bytes = bytes;
  for (std::uint64_t at = 0; at < bytes && result == CUDA_SUCCESS; at += fresh.blocks.back().bytes) {
    fresh.blocks.push_back({std::min(bytes - at, block_)});
    result = bring(address + at, fresh.blocks.back());
  }
  if (result != CUDA_SUCCESS) {
    drop_all(address, fresh);
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
    for (const Block& block : extent->second.blocks) {
      if (block.memory == 0) bytes_out_ -= block.bytes;
    }
    gone = extents_.extract(extent);
  }
  drop_all(gone.key(), gone.mapped());
  return driver_.cuMemAddressFree(gone.key(), gone.mapped().bytes);
}

std::uint64_t MovableMemory::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

std::uint64_t MovableMemory::bytes_out() const {
  const std::lock_guard lock(mutex_);
  return bytes_out_;
}

std::vector<MovableMemory::Place> MovableMemory::next_part(bool on_device) {
  std::vector<Place> part;
  std::uint64_t bytes = 0;
  for (auto& [begin, extent] : extents_) {
    std::uint64_t address = begin;
    for (Block& block : extent.blocks) {
      if ((block.memory != 0) == on_device) {
        if (!part.empty() && bytes + block.bytes > blocks_a_part * block_) return part;
        part.push_back({address, &block});
        bytes += block.bytes;
      }
      address += block.bytes;
    }
  }
  return part;
}

CUresult MovableMemory::move_out(const std::function<void(std::uint64_t bytes)>& moved) {
  const std::lock_guard lock(mutex_);
  if (!out_) {
    if (!store_.resize(bytes_)) return CUDA_ERROR_OUT_OF_MEMORY;
    std::uint64_t place = 0;
    for (auto& [address, extent] : extents_) {
      for (Block& block : extent.blocks) {
        block.place = place;
        place += block.bytes;
      }
    }
  }
  for (std::vector<Place> part = next_part(true); !part.empty(); part = next_part(true)) {
    std::vector<HostStore::Piece> pieces;
    pieces.reserve(part.size());
    for (const auto& [address, block] : part) pieces.push_back({address, block->place, block->bytes});
    if (const CUresult result = store_.save(pieces); result != CUDA_SUCCESS) return result;
    std::uint64_t bytes = 0;
    for (const auto& [address, block] : part) {
      drop(address, *block);
      bytes += block->bytes;
    }
    bytes_out_ += bytes;
    out_ = true;
    moved(bytes);
  }
  out_ = true;
  return CUDA_SUCCESS;
}

std::uint64_t MovableMemory::next_in() {
  const std::lock_guard lock(mutex_);
  std::uint64_t bytes = 0;
  for (const auto& [address, block] : next_part(false)) bytes += block->bytes;
  return bytes;
}

CUresult MovableMemory::move_in(bool keep) {
  const std::lock_guard lock(mutex_);
  const std::vector<Place> part = next_part(false);
  CUresult result = CUDA_SUCCESS;
  std::vector<HostStore::Piece> pieces;
  std::uint64_t bytes = 0;
  for (const auto& [address, block] : part) {
    result = bring(address, *block);
    if (result != CUDA_SUCCESS) break;
    pieces.push_back({address, block->place, block->bytes});
    bytes += block->bytes;
  }
  if (result == CUDA_SUCCESS && !part.empty()) result = store_.restore(pieces);
  if (result != CUDA_SUCCESS) {
    for (const auto& [address, block] : part) {
      if (block->memory != 0) drop(address, *block);
    }
    return result;
  }
  bytes_out_ -= bytes;
  out_ = bytes_out_ != 0;
  if (!keep && !pieces.empty()) {
    store_.forget_before(out_ ? pieces.back().offset + pieces.back().bytes : store_.bytes());
  }
  return CUDA_SUCCESS;
}

}  // namespace vgpu::worker
