#include "daemon/worker/host_store.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <thread>

#include "daemon/host_memory/huge_pages.hpp"

namespace vgpu::worker {

using host_memory::chunk_bytes;

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
    chunk.bytes = std::min(chunk_bytes, host_memory::in_huge_pages(bytes - bytes_));
    chunk.begin = bytes_;
    chunk.data = host_memory::map_huge(chunk.bytes);
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
  while (streams_.size() < host_memory::lanes()) {
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
  host_memory::take_pages({chunk.data, chunk.bytes});
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
