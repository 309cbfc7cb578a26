#include "libclient/cuda/copy.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "cudaabi/unsupported.hpp"
#include "libclient/cuda/arena_block.hpp"
#include "libclient/cuda/bulk_copy.hpp"
#include "libclient/cuda/graph_bounce.hpp"
#include "protocol/address_space.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

// Of a copy whose every chunk is waited for: into memory of which nothing is known, or during a capture.
constexpr std::uint64_t kAskedChunk = 1 << 20;

// Memory mapped piece by piece goes on behind the end of one piece.
bool may_continue(MemoryKind kind) {
  return kind == MemoryKind::mapped || kind == MemoryKind::reserved;
}

// Of pinned memory, what is sent as pageable memory is.
constexpr std::uint64_t kTakenAlong = 64 << 10;

bool holds(const std::optional<MemoryRange>& range, CUdeviceptr target, std::uint64_t bytes) {
  return range && bytes <= range->size - (target - range->base);
}

// Memory of the device alone, which the program can see by what it sends only.
bool quiet_target(const std::optional<MemoryRange>& range, CUdeviceptr target, std::uint64_t bytes) {
  return holds(range, target, bytes) && !range->sync_memops &&
         (range->kind == MemoryKind::device || range->kind == MemoryKind::async);
}

CUresult gone(Call& call) {
  const CUresult error = call.connection().error();
  return error != CUDA_SUCCESS ? error : CUDA_ERROR_DEVICE_UNAVAILABLE;
}

// Pageable memory, or what is treated as such. `known`: the target is memory of the client's. An unknown one
// may be wrong: then the answer is waited for, so that the error comes at the call.
CUresult upload(Call& call, CUdeviceptr target, const std::byte* from, std::uint64_t bytes,
                std::uint64_t stream, bool known) {
  if (bytes <= max_inline_bytes) {
    record::copy_to_device_inline record;
    record.dst = target;
    record.stream = stream;
    const std::span<const std::byte> tail(from, bytes);
    return known ? call.post(record, tail) : call.ask(record, tail);
  }
  if (known && call.process().captures.load(std::memory_order_relaxed) == 0) {
    if (call.process().mirrors.any()) call.process().mirrors.before_work(call);
    return upload_chunks(call, target, from, bytes, stream);
  }
  const std::uint64_t chunk = std::min(kAskedChunk, call.connection().largest_block());
  for (std::uint64_t at = 0; at < bytes; at += chunk) {
    const std::uint64_t size = std::min<std::uint64_t>(chunk, bytes - at);
    ArenaLease block(call.connection(), size);
    if (!block) return gone(call);
    std::memcpy(block.data(), from + at, size);
    record::copy_to_device_block record;
    record.dst = target + at;
    record.stream = stream;
    record.block = block.span(size);
    if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

CUresult download_asking(Call& call, std::byte* to, CUdeviceptr source, std::uint64_t bytes,
                         std::uint64_t stream) {
  const std::uint64_t chunk = std::min(kAskedChunk, call.connection().largest_block());
  for (std::uint64_t at = 0; at < bytes; at += chunk) {
    const std::uint64_t size = std::min<std::uint64_t>(chunk, bytes - at);
    ArenaLease block(call.connection(), size);
    if (!block) return gone(call);
    record::copy_from_device_block record;
    record.src = source + at;
    record.stream = stream;
    record.block = block.span(size);
    CUresult result = call.ask(record);
    if (result == CUDA_SUCCESS) result = call.connection().wait(block.header());
    if (result != CUDA_SUCCESS) return result;
    std::memcpy(to + at, block.data(), size);
  }
  return CUDA_SUCCESS;
}

// True where this process has nothing at the first or the last byte.
bool unmapped(std::uint64_t pointer, std::uint64_t bytes) {
  const auto absent = [](std::uint64_t address) {
    unsigned char resident = 0;
    // Source: mincore(2): fails with ENOMEM where nothing is mapped.
    return mincore(from_bits<void*>(address / host_page * host_page), host_page, &resident) != 0;
  };
  return absent(pointer) || absent(pointer + bytes - 1);
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
  const bool shared = range && range->kind == MemoryKind::registered && range->device != 0;
  return shared ? range->device + (pointer - range->base) : 0;
}

bool device_alone(const Process& process, std::uint64_t pointer, std::uint64_t bytes) {
  const auto range = process.memory.find(pointer);
  return range && !is_host(range->kind) && unmapped(pointer, bytes);
}

CUresult refuse_capture(Call& call, std::uint64_t stream) {
  bool active = false;
  if (const CUresult result = capturing(call, stream, active); result != CUDA_SUCCESS || !active)
    return result;
  return static_cast<CUresult>(cudaabi::note_unsupported("2D and 3D copies of pageable memory in a capture"));
}

// What a copy of pageable memory in `stream` has to do with captures.
enum class InCapture : std::uint8_t { no, yes, forbidden };

InCapture in_capture(Call& call, std::uint64_t stream, CopyMode mode, CUresult& result) {
  bool active = false;
  result = capturing(call, stream, active);
  // A synchronous copy would wait for what only a replay does.
  if (result == CUDA_SUCCESS && active && mode == CopyMode::synchronous)
    result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (result != CUDA_SUCCESS) return InCapture::forbidden;
  return active ? InCapture::yes : InCapture::no;
}

CUresult synchronize(Call& call, std::uint64_t stream) {
  record::cuStreamSynchronize record;
  record.hStream = stream;
  return call.ask(record);
}

CUresult end_of_download(Call& call, std::uint64_t stream, CUresult result) {
  if (result != CUDA_SUCCESS) return call.failed(result);
  if (call.connection().kernels_print()) return synchronize(call, stream);
  return call.connection().take_async_error();
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

CUresult await_stream(Call& call, std::uint64_t stream) {
  record::await_stream record;
  record.stream = stream;
  return call.post(record);
}

CUresult copy_to_device(Call& call, CUdeviceptr target, const void* source, std::size_t bytes,
                        std::uint64_t stream, CopyMode mode) {
  if (bytes == 0 || call.problem() != CUDA_SUCCESS) return call.problem();
  if (source == nullptr) return CUDA_ERROR_INVALID_VALUE;
  bool taken_along = false;
  std::optional<MemoryRange> range;
  if (const auto shared = shared_address(call.process(), bits(source), bytes)) {
    // Where nothing is under way the device might read the source at once: its bytes may as well go along,
    // and then nobody has to wait for the copy before the program changes them.
    if (bytes <= kTakenAlong) range = call.process().memory.find(target);
    taken_along = quiet_target(range, target, bytes) && call.only_quiet_work();
    if (!taken_along) return copy_within(call, target, shared, bytes, stream, mode);
  }
  if (!taken_along) {
    bool device_source = false;
    range = call.process().memory.find(target, bits(source), device_source);
    if (device_source && unmapped(bits(source), bytes))
      return copy_within(call, target, bits(source), bytes, stream, mode);
  }
  CUresult result = CUDA_SUCCESS;
  const InCapture captured = in_capture(call, stream, mode, result);
  if (captured == InCapture::forbidden) return result;
  if (captured == InCapture::yes) return captured_upload(call, target, source, bytes, stream);
  const bool known = holds(range, target, bytes);
  if (range && !known && !may_continue(range->kind)) return CUDA_ERROR_INVALID_VALUE;
  call.adds_quiet_work(quiet_target(range, target, bytes));
  result = upload(call, target, static_cast<const std::byte*>(source), bytes, stream, known);
  call.adds_quiet_work(false);
  if (result != CUDA_SUCCESS || !taken_along || mode == CopyMode::asynchronous) return result;
  return await_stream(call, stream);
}

CUresult copy_from_device(Call& call, void* target, CUdeviceptr source, std::size_t bytes,
                          std::uint64_t stream, CopyMode mode) {
  if (bytes == 0 || call.problem() != CUDA_SUCCESS) return call.problem();
  if (target == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const auto shared = shared_address(call.process(), bits(target), bytes)) {
    return copy_within(call, shared, source, bytes, stream, mode);
  }
  bool device_target = false;
  const auto range = call.process().memory.find(source, bits(target), device_target);
  if (device_target && unmapped(bits(target), bytes))
    return copy_within(call, bits(target), source, bytes, stream, mode);
  if (range && !holds(range, source, bytes) && !may_continue(range->kind)) return CUDA_ERROR_INVALID_VALUE;
  CUresult problem = CUDA_SUCCESS;
  const InCapture captured = in_capture(call, stream, mode, problem);
  if (captured == InCapture::forbidden) return problem;
  if (captured == InCapture::yes) return captured_download(call, target, source, bytes, stream);
  auto* to = static_cast<std::byte*>(target);
  // It is over when this returns, and so is what the stream had to do before.
  call.adds_no_work();
  const Call::Covered covered = call.covered();
  if (call.process().captures.load(std::memory_order_relaxed) == 0) {
    if (call.process().mirrors.any()) call.process().mirrors.before_work(call);
    problem = download_chunks(call, to, source, bytes, stream);
  } else {
    problem = download_asking(call, to, source, bytes, stream);
  }
  if (problem == CUDA_SUCCESS && call.process().mirrors.any()) call.process().mirrors.after_wait(call);
  problem = end_of_download(call, stream, problem);
  if (problem == CUDA_SUCCESS) call.ended(covered, false);
  return problem;
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
