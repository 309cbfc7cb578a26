// Copies: from records, through arena blocks, and between addresses that are valid here. A block's owner
// always learns the end of its copy, also when the copy was refused.
#include "daemon/worker/session.hpp"
#include "protocol/arena.hpp"
#include "protocol/reply_slots.hpp"

namespace vgpu::worker {
namespace {
/// What a GPU copies in a few microseconds, so that no other thread's call waits for long behind it.
constexpr std::uint64_t blocking_copy_bytes = 64 << 10;

void count_bytes(std::atomic<std::uint64_t>& counter, std::uint64_t bytes) {
  counter.fetch_add(bytes, std::memory_order_relaxed);
}

/// Completes a block with the result of a copy that was refused or is over, unless it is under way.
class BlockGuard {
 public:
  explicit BlockGuard(ArenaBlock* block) : block_(block) {}
  ~BlockGuard() {
    if (block_ != nullptr) complete_block(*block_, static_cast<std::int32_t>(result_));
  }
  BlockGuard(const BlockGuard&) = delete;
  BlockGuard& operator=(const BlockGuard&) = delete;
  CUresult refuse(CUresult result) {
    result_ = result;
    return result;
  }
  CUresult finish(CUresult result) { return refuse(result); }
  void release() { block_ = nullptr; }

 private:
  ArenaBlock* block_;
  CUresult result_ = CUDA_ERROR_INVALID_VALUE;
};

/// The copy as one between two contexts.
CUDA_MEMCPY3D_PEER peer_form(const CUDA_MEMCPY3D& copy, CUcontext source, CUcontext target) {
  CUDA_MEMCPY3D_PEER peer{};
  peer.srcXInBytes = copy.srcXInBytes;
  peer.srcY = copy.srcY;
  peer.srcZ = copy.srcZ;
  peer.srcMemoryType = copy.srcMemoryType;
  peer.srcHost = copy.srcHost;
  peer.srcDevice = copy.srcDevice;
  peer.srcArray = copy.srcArray;
  peer.srcContext = source;
  peer.srcPitch = copy.srcPitch;
  peer.srcHeight = copy.srcHeight;
  peer.dstXInBytes = copy.dstXInBytes;
  peer.dstY = copy.dstY;
  peer.dstZ = copy.dstZ;
  peer.dstMemoryType = copy.dstMemoryType;
  peer.dstHost = copy.dstHost;
  peer.dstDevice = copy.dstDevice;
  peer.dstArray = copy.dstArray;
  peer.dstContext = target;
  peer.dstPitch = copy.dstPitch;
  peer.dstHeight = copy.dstHeight;
  peer.WidthInBytes = copy.WidthInBytes;
  peer.Height = copy.Height;
  peer.Depth = copy.Depth;
  return peer;
}
}  // namespace

CUresult Session::handle(const record::copy_to_device_inline& record, reply::copy_to_device_inline&,
                         Tail tail) {
  if (driver_.cuMemcpyHtoDAsync_v2 == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (tail.empty() || tail.size() > max_record_bytes) return CUDA_ERROR_INVALID_VALUE;
  if (!device_range(record.dst, tail.size())) return CUDA_ERROR_INVALID_VALUE;
  admit_copy(stream, tail.size(), true);
  // The source is pageable memory, which the driver has taken over when the call returns.
  const CUresult result = driver_.cuMemcpyHtoDAsync_v2(record.dst, tail.data(), tail.size(), stream);
  if (result != CUDA_SUCCESS) return result;
  contexts_.device_of(stream).accounting->page().bytes_to_device.fetch_add(tail.size(),
                                                                           std::memory_order_relaxed);
  note_stream_work(stream, predict_copy(tail.size()).ns);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::copy_to_device_block& record, reply::copy_to_device_block&, Tail) {
  ArenaBlock* const block = block_at(channel_.arena(), record.block.offset, record.block.bytes);
  if (block == nullptr) return CUDA_ERROR_INVALID_VALUE;
  BlockGuard guard(block);
  if (driver_.cuMemcpyHtoDAsync_v2 == nullptr) return guard.refuse(unsupported(record.header.call));
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return guard.refuse(CUDA_ERROR_INVALID_HANDLE);
  if (!device_range(record.dst, record.block.bytes)) return guard.refuse(CUDA_ERROR_INVALID_VALUE);
  admit_copy(stream, record.block.bytes, true);
  if (software_ && driver_.cuMemcpyHtoD_v2 != nullptr && nothing_under_way()) {
    // This thread copies, in order since nothing else is under way; no other need be woken.
    const CUresult result = driver_.cuMemcpyHtoD_v2(record.dst, block + 1, record.block.bytes);
    if (result == CUDA_SUCCESS)
      count_bytes(contexts_.device_of(stream).accounting->page().bytes_to_device, record.block.bytes);
    return guard.finish(result);
  }
  CUresult result = driver_.cuMemcpyHtoDAsync_v2(record.dst, block + 1, record.block.bytes, stream);
  if (result != CUDA_SUCCESS) return guard.refuse(result);
  count_bytes(contexts_.device_of(stream).accounting->page().bytes_to_device, record.block.bytes);
  note_stream_work(stream, predict_copy(record.block.bytes).ns);
  result = after_stream(stream,
                        [block](CUresult done) { complete_block(*block, static_cast<std::int32_t>(done)); });
  if (result != CUDA_SUCCESS) return guard.refuse(result);
  guard.release();
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::copy_from_device_block& record, reply::copy_from_device_block&, Tail) {
  ArenaBlock* const block = block_at(channel_.arena(), record.block.offset, record.block.bytes);
  if (block == nullptr) return CUDA_ERROR_INVALID_VALUE;
  BlockGuard guard(block);
  // Of no bytes it is a mark: its block is done when what stands before it in the stream has ended.
  const bool mark = record.block.bytes == 0;
  // The block tells whoever waits for the bytes, and no later call is to tell it again.
  const auto refuse = [&](CUresult result) {
    guard.refuse(result);
    if (mark || record.header.reply != 0) return result;
    errors_.note(result);
    return CUDA_SUCCESS;
  };
  if (driver_.cuMemcpyDtoHAsync_v2 == nullptr) return refuse(unsupported(record.header.call));
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return refuse(CUDA_ERROR_INVALID_HANDLE);
  if (!device_range(record.src, record.block.bytes)) return refuse(CUDA_ERROR_INVALID_VALUE);
  admit_copy(stream, record.block.bytes, true);
  if (!mark && (software_ || record.block.bytes <= blocking_copy_bytes) &&
      driver_.cuMemcpyDtoH_v2 != nullptr && nothing_under_way()) {
    const CUresult result = driver_.cuMemcpyDtoH_v2(block + 1, record.src, record.block.bytes);
    if (result == CUDA_SUCCESS)
      count_bytes(contexts_.device_of(stream).accounting->page().bytes_from_device, record.block.bytes);
    return result == CUDA_SUCCESS ? guard.finish(result) : refuse(result);
  }
  CUresult result =
      mark ? CUDA_SUCCESS : driver_.cuMemcpyDtoHAsync_v2(block + 1, record.src, record.block.bytes, stream);
  if (result != CUDA_SUCCESS) return refuse(result);
  count_bytes(contexts_.device_of(stream).accounting->page().bytes_from_device, record.block.bytes);
  note_stream_work(stream, predict_copy(record.block.bytes).ns);
  result = after_stream_soon(
      contexts_.key_of(stream),
      [block](CUresult done) { complete_block(*block, static_cast<std::int32_t>(done)); }, false);
  if (result != CUDA_SUCCESS) return refuse(result);
  guard.release();
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMemcpyAsync& record, reply::cuMemcpyAsync&, Tail) {
  if (driver_.cuMemcpyAsync == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  if (!resolve(record.hStream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (record.ByteCount == 0) return CUDA_SUCCESS;
  if (!reachable(record.dst, record.ByteCount) || !reachable(record.src, record.ByteCount)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const bool from_host = parts_.regions.contains(record.src, 1);
  const bool to_host = parts_.regions.contains(record.dst, 1);
  admit_copy(stream, record.ByteCount, from_host || to_host);
  const CUresult result = driver_.cuMemcpyAsync(record.dst, record.src, record.ByteCount, stream);
  if (result != CUDA_SUCCESS) return result;
  GatePage& page = contexts_.device_of(stream).accounting->page();
  (from_host ? page.bytes_to_device
   : to_host ? page.bytes_from_device
             : page.bytes_on_device)
      .fetch_add(record.ByteCount, std::memory_order_relaxed);
  note_stream_work(stream, predict_copy(record.ByteCount).ns);
  return CUDA_SUCCESS;
}

CUresult Session::fix_up_copy(CUDA_MEMCPY3D& copy, const ArenaSpan& src_block, const ArenaSpan& dst_block) {
  if (copy.WidthInBytes == 0 || copy.Height == 0 || copy.Depth == 0) return CUDA_ERROR_INVALID_VALUE;
  if (copy.srcLOD != 0 || copy.dstLOD != 0) return CUDA_ERROR_INVALID_VALUE;
  // One side at a time: where it begins, and how many bytes from there the copy may touch.
  const auto side = [&](CUmemorytype& type, const void* host, CUdeviceptr device, std::size_t x,
                        std::size_t y, std::size_t z, std::size_t pitch, std::size_t height,
                        const ArenaSpan& span, std::uint64_t& address) {
    __extension__ using Wide = unsigned __int128;
    const Wide rows = height != 0 ? height : y + copy.Height;
    const Wide row = pitch != 0 ? pitch : x + copy.WidthInBytes;
    if (x + copy.WidthInBytes < x || y + copy.Height < y || z + copy.Depth < z || row >> 48 || rows >> 48) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const Wide depth = static_cast<Wide>(z) + copy.Depth - 1;
    const Wide last_row = static_cast<Wide>(y) + copy.Height - 1;
    if (depth >> 31 || last_row >> 48) return CUDA_ERROR_INVALID_VALUE;
    const Wide bytes = (depth * rows + last_row) * row + x + copy.WidthInBytes;
    if (bytes >> 47) return CUDA_ERROR_INVALID_VALUE;
    const auto needed = static_cast<std::uint64_t>(bytes);
    if (span.bytes != 0) {
      ArenaBlock* const block = block_at(channel_.arena(), span.offset, span.bytes);
      if (block == nullptr || needed > span.bytes) return CUDA_ERROR_INVALID_VALUE;
      type = CU_MEMORYTYPE_HOST;
      address = reinterpret_cast<std::uint64_t>(block + 1);
      return CUDA_SUCCESS;
    }
    switch (static_cast<int>(type)) {
      case CU_MEMORYTYPE_HOST:
        // The driver may touch it with the CPU, so device memory will not do.
        address = reinterpret_cast<std::uint64_t>(host);
        return parts_.regions.contains(address, needed) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
      case CU_MEMORYTYPE_DEVICE:
      case CU_MEMORYTYPE_UNIFIED:
        address = device;
        return reachable(address, needed) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
  };
  // An array's extent is known to the driver, which refuses what lies outside.
  const auto in_array = [this](CUmemorytype type, const ArenaSpan& span, CUarray& array) {
    if (type != CU_MEMORYTYPE_ARRAY || span.bytes != 0) {
      array = nullptr;
      return true;
    }
    return resolve(reinterpret_cast<std::uint64_t>(array), array);
  };
  if (!in_array(copy.srcMemoryType, src_block, copy.srcArray) ||
      !in_array(copy.dstMemoryType, dst_block, copy.dstArray)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  std::uint64_t address = 0;
  CUresult result = CUDA_SUCCESS;
  if (copy.srcArray == nullptr) {
    result = side(copy.srcMemoryType, copy.srcHost, copy.srcDevice, copy.srcXInBytes, copy.srcY, copy.srcZ,
                  copy.srcPitch, copy.srcHeight, src_block, address);
  }
  if (result != CUDA_SUCCESS) return result;
  copy.srcHost = reinterpret_cast<const void*>(address);
  copy.srcDevice = address;
  address = 0;
  if (copy.dstArray == nullptr) {
    result = side(copy.dstMemoryType, copy.dstHost, copy.dstDevice, copy.dstXInBytes, copy.dstY, copy.dstZ,
                  copy.dstPitch, copy.dstHeight, dst_block, address);
  }
  if (result != CUDA_SUCCESS) return result;
  copy.dstHost = reinterpret_cast<void*>(address);
  copy.dstDevice = address;
  copy.reserved0 = nullptr;
  copy.reserved1 = nullptr;
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::copy_3d& record, reply::copy_3d&, Tail) {
  const auto block_of = [this](const ArenaSpan& span) {
    return span.bytes != 0 ? block_at(channel_.arena(), span.offset, span.bytes) : nullptr;
  };
  ArenaBlock* const from = block_of(record.src_block);
  ArenaBlock* const to = block_of(record.dst_block);
  BlockGuard from_guard(from);
  BlockGuard to_guard(to);
  const auto refuse = [&](CUresult result) { return from_guard.refuse(to_guard.refuse(result)); };
  if (driver_.cuMemcpy3DAsync_v2 == nullptr) return refuse(unsupported(record.header.call));
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return refuse(CUDA_ERROR_INVALID_HANDLE);
  CUDA_MEMCPY3D copy = record.copy;
  CUresult result = fix_up_copy(copy, record.src_block, record.dst_block);
  if (result != CUDA_SUCCESS) return refuse(result);
  const CUcontext source = contexts_.at(record.src_context);
  const CUcontext target = contexts_.at(record.dst_context);
  if (source == nullptr || target == nullptr) return refuse(CUDA_ERROR_INVALID_CONTEXT);
  const bool between_devices =
      contexts_.device_at(record.src_context) != contexts_.device_at(record.dst_context);
  if (between_devices && driver_.cuMemcpy3DPeerAsync == nullptr)
    return refuse(unsupported(record.header.call));
  admit_copy(stream, copy.WidthInBytes * copy.Height * copy.Depth, from != nullptr || to != nullptr);
  if (between_devices) {
    const CUDA_MEMCPY3D_PEER peer = peer_form(copy, source, target);
    result = driver_.cuMemcpy3DPeerAsync(&peer, stream);
  } else {
    result = driver_.cuMemcpy3DAsync_v2(&copy, stream);
  }
  if (result != CUDA_SUCCESS) return refuse(result);
  const std::uint64_t bytes = copy.WidthInBytes * copy.Height * copy.Depth;
  GatePage& page = contexts_.device_of(stream).accounting->page();
  (from != nullptr ? page.bytes_to_device
   : to != nullptr ? page.bytes_from_device
                   : page.bytes_on_device)
      .fetch_add(bytes, std::memory_order_relaxed);
  note_stream_work(stream, predict_copy(bytes).ns);
  if (from == nullptr && to == nullptr) return CUDA_SUCCESS;
  result = after_stream(stream, [from, to](CUresult done) {
    if (from != nullptr) complete_block(*from, static_cast<std::int32_t>(done));
    if (to != nullptr) complete_block(*to, static_cast<std::int32_t>(done));
  });
  if (result != CUDA_SUCCESS) return refuse(result);
  from_guard.release();
  to_guard.release();
  return CUDA_SUCCESS;
}

}  // namespace vgpu::worker
