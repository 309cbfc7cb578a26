#include "libclient/cuda/copy.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "cudaabi/unsupported.hpp"
#include "libclient/cuda/arena_block.hpp"
#include "protocol/address_space.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

// Chunks of one copy that are under way at once.
constexpr std::size_t kWindow = 8;

std::uint64_t chunk_size(const Connection& connection, std::uint64_t bytes) {
  // Several chunks even of a middling copy, so that both sides work at once; not so small that the records
  // cost more.
  constexpr std::uint64_t kSmallest = 256 << 10;
  const std::uint64_t wanted = std::max(kSmallest, bytes / 8 / 4096 * 4096);
  return std::min({wanted, connection.largest_block(), std::uint64_t{1} << 20});
}

// Memory mapped piece by piece goes on behind the end of one piece.
bool may_continue(MemoryKind kind) {
  return kind == MemoryKind::mapped || kind == MemoryKind::reserved;
}

CUresult gone(Call& call) {
  const CUresult error = call.connection().error();
  return error != CUDA_SUCCESS ? error : CUDA_ERROR_DEVICE_UNAVAILABLE;
}

// True if the device can use `address`; registered memory becomes the address at which the device sees it.
bool resolve_unified(const Process& process, CUdeviceptr& address, std::size_t bytes) {
  if (const std::uint64_t shared = shared_address(process, address, bytes)) {
    address = shared;
    return true;
  }
  const auto range = process.memory.find(address);
  return range && range->kind != MemoryKind::registered;
}

}  // namespace

std::uint64_t shared_address(const Process& process, std::uint64_t pointer, std::uint64_t bytes) {
  if (in_host_window(pointer, bytes)) return pointer;
  if (!process.memory.has_registered()) return 0;
  const auto range = process.memory.find_host(pointer, bytes);
  return range && range->kind == MemoryKind::registered ? range->device + (pointer - range->base) : 0;
}

CUresult refuse_capture(Call& call, std::uint64_t stream) {
  if (call.process().captures.load(std::memory_order_relaxed) == 0) return CUDA_SUCCESS;
  record::cuStreamIsCapturing record;
  record.stream = stream;
  reply::cuStreamIsCapturing reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  if (reply.status == CU_STREAM_CAPTURE_STATUS_NONE) return CUDA_SUCCESS;
  return static_cast<CUresult>(cudaabi::note_unsupported("copies of pageable memory in a capture"));
}

CUresult synchronize(Call& call, std::uint64_t stream) {
  record::cuStreamSynchronize record;
  record.hStream = stream;
  return call.ask(record);
}

CUresult copy_within(Call& call, CUdeviceptr target, CUdeviceptr source, std::size_t bytes,
                     std::uint64_t stream, CopyMode mode) {
  if (bytes == 0) return call.problem();
  record::cuMemcpyAsync record;
  record.dst = target;
  record.src = source;
  record.ByteCount = bytes;
  record.hStream = stream;
  if (mode == CopyMode::asynchronous) return call.post(record);
  if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) return result;
  return synchronize(call, stream);
}

CUresult copy_to_device(Call& call, CUdeviceptr target, const void* source, std::size_t bytes,
                        std::uint64_t stream, CopyMode mode) {
  if (bytes == 0) return call.problem();
  if (source == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const auto shared = shared_address(call.process(), bits(source), bytes)) {
    return copy_within(call, target, shared, bytes, stream, mode);
  }
  if (const CUresult result = refuse_capture(call, stream); result != CUDA_SUCCESS) return result;
  // An unknown target may be wrong: then the answer is waited for, so that the error comes at the call.
  const auto range = call.process().memory.find(target);
  const bool known = range && bytes <= range->size - (target - range->base);
  if (range && !known && !may_continue(range->kind)) return CUDA_ERROR_INVALID_VALUE;
  const auto* from = static_cast<const std::byte*>(source);
  if (bytes <= max_inline_bytes) {
    record::copy_to_device_inline record;
    record.dst = target;
    record.stream = stream;
    const std::span<const std::byte> tail(from, bytes);
    return known ? call.post(record, tail) : call.ask(record, tail);
  }
  const std::uint64_t chunk = chunk_size(call.connection(), bytes);
  for (std::uint64_t at = 0; at < bytes; at += chunk) {
    const std::uint64_t size = std::min<std::uint64_t>(chunk, bytes - at);
    ArenaLease block(call.connection(), size);
    if (!block) return gone(call);
    std::memcpy(block.data(), from + at, size);
    record::copy_to_device_block record;
    record.dst = target + at;
    record.stream = stream;
    record.block = block.span(size);
    const CUresult result = known ? call.post(record) : call.ask(record);
    if (result != CUDA_SUCCESS) {
      // A refused copy completes its block as well; one that was never sent does not.
      if (call.problem() != CUDA_SUCCESS) block.discard();
      return result;
    }
  }
  return CUDA_SUCCESS;
}

CUresult copy_from_device(Call& call, void* target, CUdeviceptr source, std::size_t bytes,
                          std::uint64_t stream, CopyMode mode) {
  if (bytes == 0) return call.problem();
  if (target == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const auto shared = shared_address(call.process(), bits(target), bytes)) {
    return copy_within(call, shared, source, bytes, stream, mode);
  }
  if (const auto range = call.process().memory.find(source);
      range && bytes > range->size - (source - range->base) && !may_continue(range->kind)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (const CUresult result = refuse_capture(call, stream); result != CUDA_SUCCESS) return result;
  auto* to = static_cast<std::byte*>(target);
  const std::uint64_t chunk = chunk_size(call.connection(), bytes);
  std::array<ArenaLease, kWindow> window;
  std::uint64_t asked = 0;
  std::uint64_t received = 0;
  CUresult result = CUDA_SUCCESS;
  for (std::size_t turn = 0; received < bytes && result == CUDA_SUCCESS; ++turn) {
    // Keeps the window full, then takes the oldest chunk.
    while (asked < bytes && asked - received < kWindow * chunk) {
      const std::uint64_t size = std::min<std::uint64_t>(chunk, bytes - asked);
      ArenaLease block(call.connection(), size);
      if (!block) return gone(call);
      record::copy_from_device_block record;
      record.src = source + asked;
      record.stream = stream;
      record.block = block.span(size);
      result = call.post(record);
      if (result != CUDA_SUCCESS) {
        if (call.problem() != CUDA_SUCCESS) block.discard();
        return result;
      }
      window[asked / chunk % kWindow] = std::move(block);
      asked += size;
    }
    ArenaLease block = std::move(window[turn % kWindow]);
    const std::uint64_t size = std::min<std::uint64_t>(chunk, bytes - received);
    result = call.connection().wait(block.header());
    if (result == CUDA_SUCCESS) std::memcpy(to + received, block.data(), size);
    received += size;
  }
  if (result != CUDA_SUCCESS) return result;
  if (call.process().mirrors.any()) call.process().mirrors.after_wait(call);
  return call.connection().take_async_error();
}

CUresult copy_unified(Call& call, CUdeviceptr target, CUdeviceptr source, std::size_t bytes,
                      std::uint64_t stream, CopyMode mode) {
  if (bytes == 0) return call.problem();
  const bool target_seen = resolve_unified(call.process(), target, bytes);
  const bool source_seen = resolve_unified(call.process(), source, bytes);
  if (target_seen && source_seen) return copy_within(call, target, source, bytes, stream, mode);
  if (target_seen) return copy_to_device(call, target, from_bits<const void*>(source), bytes, stream, mode);
  if (source_seen) return copy_from_device(call, from_bits<void*>(target), source, bytes, stream, mode);
  // Neither is the device's: a copy between two places of this process, in stream order.
  if (const CUresult result = synchronize(call, stream); result != CUDA_SUCCESS) return result;
  std::memmove(from_bits<void*>(target), from_bits<const void*>(source), bytes);
  return CUDA_SUCCESS;
}

}  // namespace vgpu::client
