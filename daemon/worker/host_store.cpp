#include "daemon/worker/host_store.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace vgpu::worker {
namespace {

constexpr std::uint64_t huge_page = std::uint64_t{2} << 20;
constexpr std::uint64_t chunk_bytes = std::uint64_t{64} << 20;
constexpr std::uint64_t item_bytes = std::uint64_t{16} << 20;
constexpr std::uint64_t staging_bytes = std::uint64_t{4} << 20;
constexpr unsigned most_lanes = 8;

std::uint64_t rounded(std::uint64_t bytes) {
  return (bytes + huge_page - 1) / huge_page * huge_page;
}

// At an address that suits huge pages, which make the first touch of much memory some ten times cheaper.
std::byte* map_chunk(std::uint64_t bytes) {
  void* const place = mmap(nullptr, bytes + huge_page, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(place);
  const auto at = reinterpret_cast<std::uint64_t>(place);
  const std::uint64_t before = rounded(at) - at;
  if (before != 0) munmap(begin, before);
  if (before != huge_page) munmap(begin + before + bytes, huge_page - before);
  madvise(begin + before, bytes, MADV_HUGEPAGE);
  return begin + before;
}

}  // namespace

HostStore::HostStore(const DriverTable& driver, CUcontext context) : driver_(driver), context_(context) {}

HostStore::~HostStore() {
  stop_pinning();
  while (!chunks_.empty()) drop_last();
  for (const Lane& lane : lanes_) {
    if (lane.stream != nullptr) driver_.cuStreamDestroy_v2(lane.stream);
    for (const CUevent event : lane.events) {
      if (event != nullptr) driver_.cuEventDestroy_v2(event);
    }
    for (std::byte* const buffer : lane.buffers) {
      if (buffer != nullptr) driver_.cuMemFreeHost(buffer);
    }
  }
}

void HostStore::drop_last() {
  const Chunk& last = chunks_.back();
  if (last.pinned) driver_.cuMemHostUnregister(last.data);
  munmap(last.data, last.bytes);
  bytes_ -= last.bytes;
  chunks_.pop_back();
}

bool HostStore::resize(std::uint64_t bytes) {
  stop_pinning();
  while (!chunks_.empty() && bytes_ - chunks_.back().bytes >= bytes) drop_last();
  while (bytes_ < bytes) {
    Chunk chunk;
    chunk.bytes = std::min(chunk_bytes, rounded(bytes - bytes_));
    chunk.begin = bytes_;
    chunk.data = map_chunk(chunk.bytes);
    if (chunk.data == nullptr) return false;
    bytes_ += chunk.bytes;
    chunks_.push_back(chunk);
  }
  return true;
}

void HostStore::forget_before(std::uint64_t offset) {
  stop_pinning();
  for (Chunk& chunk : chunks_) {
    if (chunk.begin + chunk.bytes > offset) break;
    if (chunk.empty) continue;
    if (chunk.pinned) driver_.cuMemHostUnregister(chunk.data);
    chunk.pinned = false;
    chunk.empty = madvise(chunk.data, chunk.bytes, MADV_DONTNEED) == 0;
  }
}

std::vector<HostStore::Item> HostStore::items_of(std::span<const Piece> pieces) {
  std::vector<Item> items;
  for (Piece piece : pieces) {
    auto chunk = std::upper_bound(chunks_.begin(), chunks_.end(), piece.offset,
                                  [](std::uint64_t at, const Chunk& of) { return at < of.begin + of.bytes; });
    while (piece.bytes != 0) {
      if (piece.offset >= chunk->begin + chunk->bytes) ++chunk;
      const std::uint64_t inside = piece.offset - chunk->begin;
      const std::uint64_t part = std::min({piece.bytes, chunk->bytes - inside, item_bytes});
      items.push_back({piece.device, chunk->data + inside, part, chunk->pinned});
      chunk->empty = false;
      piece.device += part;
      piece.offset += part;
      piece.bytes -= part;
    }
  }
  return items;
}

CUresult HostStore::make_lanes() {
  const unsigned wanted = std::clamp(std::thread::hardware_concurrency() / 2, 1u, most_lanes);
  while (lanes_.size() < wanted) {
    Lane& lane = lanes_.emplace_back();
    // Not ordered with the client's legacy stream.
    CUresult result = driver_.cuStreamCreateWithPriority(&lane.stream, CU_STREAM_NON_BLOCKING, 0);
    for (unsigned i = 0; i < 2 && result == CUDA_SUCCESS; ++i) {
      result = driver_.cuEventCreate(&lane.events[i], CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC);
      void* buffer = nullptr;
      if (result == CUDA_SUCCESS)
        result = driver_.cuMemHostAlloc(&buffer, staging_bytes, CU_MEMHOSTALLOC_PORTABLE);
      lane.buffers[i] = static_cast<std::byte*>(buffer);
    }
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

CUresult HostStore::stage_out(Lane& lane, const Item& item) const {
  const std::uint64_t blocks = (item.bytes + staging_bytes - 1) / staging_bytes;
  const auto size = [&](std::uint64_t block) {
    return std::min(staging_bytes, item.bytes - block * staging_bytes);
  };
  // One block is on its way from the device while the one before is copied on.
  for (std::uint64_t block = 0; block <= blocks; ++block) {
    if (block < blocks) {
      CUresult result = driver_.cuMemcpyDtoHAsync_v2(
          lane.buffers[block % 2], item.device + block * staging_bytes, size(block), lane.stream);
      if (result == CUDA_SUCCESS) result = driver_.cuEventRecord(lane.events[block % 2], lane.stream);
      if (result != CUDA_SUCCESS) return result;
    }
    if (block == 0) continue;
    const std::uint64_t before = block - 1;
    if (const CUresult result = driver_.cuEventSynchronize(lane.events[before % 2]); result != CUDA_SUCCESS) {
      return result;
    }
    std::memcpy(item.host + before * staging_bytes, lane.buffers[before % 2], size(before));
  }
  return CUDA_SUCCESS;
}

CUresult HostStore::stage_in(Lane& lane, const Item& item) const {
  unsigned block = 0;
  for (std::uint64_t at = 0; at < item.bytes; at += staging_bytes, ++block) {
    const std::uint64_t size = std::min(staging_bytes, item.bytes - at);
    // The buffer's last copy must have left it; an event that was never recorded has happened.
    CUresult result = driver_.cuEventSynchronize(lane.events[block % 2]);
    if (result != CUDA_SUCCESS) return result;
    std::memcpy(lane.buffers[block % 2], item.host + at, size);
    result = driver_.cuMemcpyHtoDAsync_v2(item.device + at, lane.buffers[block % 2], size, lane.stream);
    if (result == CUDA_SUCCESS) result = driver_.cuEventRecord(lane.events[block % 2], lane.stream);
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

CUresult HostStore::copy_item(Lane& lane, const Item& item, bool out) const {
  if (!item.pinned) return out ? stage_out(lane, item) : stage_in(lane, item);
  const CUresult result = out ? driver_.cuMemcpyDtoHAsync_v2(item.host, item.device, item.bytes, lane.stream)
                              : driver_.cuMemcpyHtoDAsync_v2(item.device, item.host, item.bytes, lane.stream);
  if (result != CUDA_SUCCESS) return result;
  return driver_.cuStreamSynchronize(lane.stream);
}

CUresult HostStore::run_lane(Lane& lane, const std::vector<Item>& items, std::atomic<std::size_t>& next,
                             bool out) const {
  CUresult result = driver_.cuCtxSetCurrent(context_);
  for (std::size_t i = next.fetch_add(1); i < items.size() && result == CUDA_SUCCESS; i = next.fetch_add(1)) {
    result = copy_item(lane, items[i], out);
  }
  const CUresult ended = driver_.cuStreamSynchronize(lane.stream);
  return result != CUDA_SUCCESS ? result : ended;
}

CUresult HostStore::copy(std::span<const Piece> pieces, bool out) {
  stop_pinning();
  if (const CUresult result = make_lanes(); result != CUDA_SUCCESS) return result;
  const std::vector<Item> items = items_of(pieces);
  std::atomic<std::size_t> next{0};
  std::atomic<int> problem{0};
  const std::size_t count = std::clamp<std::size_t>(items.size(), 1, lanes_.size());
  std::vector<std::thread> crew;
  for (std::size_t i = 1; i < count; ++i) {
    crew.emplace_back([&, i] {
      if (const CUresult result = run_lane(lanes_[i], items, next, out); result != CUDA_SUCCESS)
        problem = result;
    });
  }
  if (const CUresult result = run_lane(lanes_[0], items, next, out); result != CUDA_SUCCESS) problem = result;
  for (std::thread& one : crew) one.join();
  return static_cast<CUresult>(problem.load());
}

CUresult HostStore::save(std::span<const Piece> pieces) {
  return copy(pieces, true);
}

CUresult HostStore::restore(std::span<const Piece> pieces) {
  return copy(pieces, false);
}

void HostStore::pin_meanwhile() {
  stop_pinning();
  if (driver_.cuMemHostRegister_v2 == nullptr || driver_.cuMemHostUnregister == nullptr) return;
  pinner_ = std::thread([this] {
    driver_.cuCtxSetCurrent(context_);
    for (Chunk& chunk : chunks_) {
      if (stop_pinning_.load()) return;
      // What cannot be pinned is copied in the other way.
      if (!chunk.pinned && !chunk.empty) {
        chunk.pinned = driver_.cuMemHostRegister_v2(chunk.data, chunk.bytes, CU_MEMHOSTREGISTER_PORTABLE) ==
                       CUDA_SUCCESS;
      }
    }
  });
}

void HostStore::stop_pinning() {
  stop_pinning_.store(true);
  if (pinner_.joinable()) pinner_.join();
  stop_pinning_.store(false);
}

}  // namespace vgpu::worker
