#include "daemon/worker/host_store.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <thread>

namespace vgpu::worker {
namespace {

constexpr std::uint64_t huge_page = std::uint64_t{2} << 20;
// Small enough that all threads have some of a part of a move (movable_memory.hpp), and worth a call to pin.
constexpr std::uint64_t chunk_bytes = std::uint64_t{32} << 20;
constexpr std::uint64_t small_page = 4096;
constexpr unsigned most_lanes = 14;

// Three of four CPUs: taking pages is the CPUs' work, and the client that moves out waits.
unsigned lanes_here() {
  return std::clamp(std::thread::hardware_concurrency() * 3 / 4, 1u, most_lanes);
}

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
  while (!chunks_.empty()) drop_last();
  for (const CUstream stream : streams_) driver_.cuStreamDestroy_v2(stream);
}

void HostStore::drop_last() {
  const Chunk& last = chunks_.back();
  if (last.pinned) driver_.cuMemHostUnregister(last.data);
  munmap(last.data, last.bytes);
  bytes_ -= last.bytes;
  chunks_.pop_back();
}

bool HostStore::resize(std::uint64_t bytes) {
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
  for (Chunk& chunk : chunks_) {
    if (chunk.begin + chunk.bytes > offset) break;
    if (chunk.empty) continue;
    if (chunk.pinned) driver_.cuMemHostUnregister(chunk.data);
    chunk.pinned = false;
    chunk.empty = madvise(chunk.data, chunk.bytes, MADV_DONTNEED) == 0;
  }
}

// By chunk, so that one thread prepares it.
std::vector<std::vector<HostStore::Item>> HostStore::items_of(std::span<const Piece> pieces) {
  std::vector<std::vector<Item>> work;
  for (Piece piece : pieces) {
    auto chunk = std::upper_bound(chunks_.begin(), chunks_.end(), piece.offset,
                                  [](std::uint64_t at, const Chunk& of) { return at < of.begin + of.bytes; });
    while (piece.bytes != 0) {
      if (piece.offset >= chunk->begin + chunk->bytes) ++chunk;
      const std::uint64_t inside = piece.offset - chunk->begin;
      const std::uint64_t part = std::min(piece.bytes, chunk->bytes - inside);
      if (work.empty() || work.back().front().chunk != &*chunk) work.emplace_back();
      work.back().push_back({piece.device, chunk->data + inside, part, &*chunk});
      piece.device += part;
      piece.offset += part;
      piece.bytes -= part;
    }
  }
  return work;
}

CUresult HostStore::make_streams() {
  while (streams_.size() < lanes_here()) {
    CUstream stream = nullptr;
    // Not ordered with the client's legacy stream.
    const CUresult result = driver_.cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0);
    if (result != CUDA_SUCCESS) return result;
    streams_.push_back(stream);
  }
  return CUDA_SUCCESS;
}

// Takes the chunk's pages and pins them. What cannot be pinned is copied by the driver as any memory is.
void HostStore::prepare(Chunk& chunk) const {
  if (madvise(chunk.data, chunk.bytes, MADV_POPULATE_WRITE) != 0) {
    // Before Linux 5.14. What cannot be had here is missed by the copy.
    for (std::uint64_t at = 0; at < chunk.bytes; at += small_page) {
      std::atomic_ref(chunk.data[at]).store(std::byte{0}, std::memory_order_relaxed);
    }
  }
  chunk.pinned =
      driver_.cuMemHostRegister_v2 != nullptr && driver_.cuMemHostUnregister != nullptr &&
      driver_.cuMemHostRegister_v2(chunk.data, chunk.bytes, CU_MEMHOSTREGISTER_PORTABLE) == CUDA_SUCCESS;
  chunk.empty = false;
}

CUresult HostStore::run_lane(CUstream stream, const std::vector<std::vector<Item>>& work,
                             std::atomic<std::size_t>& next, bool out) const {
  CUresult result = driver_.cuCtxSetCurrent(context_);
  for (std::size_t i = next.fetch_add(1); i < work.size() && result == CUDA_SUCCESS; i = next.fetch_add(1)) {
    if (out && work[i].front().chunk->empty) prepare(*work[i].front().chunk);
    for (const Item& item : work[i]) {
      result = out ? driver_.cuMemcpyDtoHAsync_v2(item.host, item.device, item.bytes, stream)
                   : driver_.cuMemcpyHtoDAsync_v2(item.device, item.host, item.bytes, stream);
      if (result != CUDA_SUCCESS) break;
    }
  }
  const CUresult ended = driver_.cuStreamSynchronize(stream);
  return result != CUDA_SUCCESS ? result : ended;
}

CUresult HostStore::copy(std::span<const Piece> pieces, bool out) {
  if (const CUresult result = make_streams(); result != CUDA_SUCCESS) return result;
  const std::vector<std::vector<Item>> work = items_of(pieces);
  std::atomic<std::size_t> next{0};
  std::atomic<int> problem{0};
  const std::size_t count = std::clamp<std::size_t>(work.size(), 1, streams_.size());
  std::vector<std::thread> crew;
  for (std::size_t i = 1; i < count; ++i) {
    crew.emplace_back([&, i] {
      if (const CUresult result = run_lane(streams_[i], work, next, out); result != CUDA_SUCCESS)
        problem = result;
    });
  }
  if (const CUresult result = run_lane(streams_[0], work, next, out); result != CUDA_SUCCESS)
    problem = result;
  for (std::thread& one : crew) one.join();
  return static_cast<CUresult>(problem.load());
}

CUresult HostStore::save(std::span<const Piece> pieces) {
  return copy(pieces, true);
}

CUresult HostStore::restore(std::span<const Piece> pieces) {
  return copy(pieces, false);
}

}  // namespace vgpu::worker
