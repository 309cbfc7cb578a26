// 2D and 3D copies: pageable host memory is packed row by row into arena blocks; everything else is the
// driver's work.
#include <algorithm>
#include <cstring>

#include "libclient/cuda/arena_block.hpp"
#include "libclient/cuda/copy.hpp"
#include "protocol/address_space.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

// One side of the copy as this process sees it.
struct HostSide {
  std::byte* base = nullptr;
  std::size_t pitch = 0;
  std::size_t height = 0;
  std::size_t x = 0, y = 0, z = 0;

  std::byte* row(std::size_t row_y, std::size_t row_z, std::size_t column) const {
    return base + ((z + row_z) * height + y + row_y) * pitch + x + column;
  }
};

struct Box {
  std::size_t x = 0, y = 0, z = 0;
  std::size_t width = 0, height = 0, depth = 0;
};

enum class Place : std::uint8_t { pageable, worker };

// Where one side of the copy lies; a host side that the device sees becomes the address at which it does.
// `reach`: bytes from its pointer to the end of the box.
Place find_place(const Process& process, CUmemorytype& type, const void*& host, CUdeviceptr& device,
                 std::uint64_t reach) {
  if (type == CU_MEMORYTYPE_HOST) {
    const std::uint64_t shared = shared_address(process, bits(host), reach);
    if (shared == 0) return Place::pageable;
    host = from_bits<const void*>(shared);
    return Place::worker;
  }
  if (type == CU_MEMORYTYPE_UNIFIED) {
    if (const std::uint64_t shared = shared_address(process, device, reach)) {
      device = shared;
      return Place::worker;
    }
    const auto range = process.memory.find(device);
    return range && range->kind != MemoryKind::registered ? Place::worker : Place::pageable;
  }
  return Place::worker;
}

void pack(const HostSide& host, const Box& box, std::byte* out) {
  for (std::size_t z = 0; z < box.depth; ++z) {
    for (std::size_t y = 0; y < box.height; ++y, out += box.width) {
      std::memcpy(out, host.row(box.y + y, box.z + z, box.x), box.width);
    }
  }
}

void unpack(const HostSide& host, const Box& box, const std::byte* in) {
  for (std::size_t z = 0; z < box.depth; ++z) {
    for (std::size_t y = 0; y < box.height; ++y, in += box.width) {
      std::memcpy(host.row(box.y + y, box.z + z, box.x), in, box.width);
    }
  }
}

// The part of the copy that `box` covers, its pageable side replaced by a densely packed block.
CUDA_MEMCPY3D part_of(CUDA_MEMCPY3D copy, const Box& box, bool source_packed) {
  copy.WidthInBytes = box.width;
  copy.Height = box.height;
  copy.Depth = box.depth;
  copy.srcXInBytes += box.x;
  copy.srcY += box.y;
  copy.srcZ += box.z;
  copy.dstXInBytes += box.x;
  copy.dstY += box.y;
  copy.dstZ += box.z;
  if (source_packed) {
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = nullptr;
    copy.srcXInBytes = copy.srcY = copy.srcZ = copy.srcLOD = 0;
    copy.srcPitch = box.width;
    copy.srcHeight = box.height;
  } else {
    copy.dstMemoryType = CU_MEMORYTYPE_HOST;
    copy.dstHost = nullptr;
    copy.dstXInBytes = copy.dstY = copy.dstZ = copy.dstLOD = 0;
    copy.dstPitch = box.width;
    copy.dstHeight = box.height;
  }
  return copy;
}

void name_contexts(const Call& call, const CopyContexts& contexts, record::copy_3d& record) {
  const std::uint16_t current = call.context()->index;
  record.src_context = contexts.source != nullptr ? contexts.source->index : current;
  record.dst_context = contexts.target != nullptr ? contexts.target->index : current;
}

CUresult send_part(Call& call, const CUDA_MEMCPY3D& copy, const Box& box, const HostSide& host,
                   std::uint64_t stream, bool upload, const CopyContexts& contexts) {
  const std::uint64_t bytes = box.width * box.height * box.depth;
  const ArenaLease block(call.connection(), bytes);
  if (!block) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  if (upload) pack(host, box, block.data());
  record::copy_3d record;
  name_contexts(call, contexts, record);
  record.stream = stream;
  (upload ? record.src_block : record.dst_block) = block.span(bytes);
  record.copy = part_of(copy, box, upload);
  if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) return result;
  if (upload) return CUDA_SUCCESS;
  if (const CUresult result = call.connection().wait(block.header()); result != CUDA_SUCCESS) return result;
  unpack(host, box, block.data());
  return CUDA_SUCCESS;
}

// Cuts the copy into boxes that fit an arena block: whole slices, else whole rows, else pieces of rows.
template <class F>
CUresult for_parts(const CUDA_MEMCPY3D& copy, std::size_t most, F&& part) {
  const std::size_t width = std::min<std::size_t>(copy.WidthInBytes, most);
  const std::size_t rows = std::min<std::size_t>(copy.Height, std::max<std::size_t>(1, most / width));
  const std::size_t slices = rows < copy.Height ? 1 : std::max<std::size_t>(1, most / (width * rows));
  for (std::size_t z = 0; z < copy.Depth; z += slices) {
    for (std::size_t y = 0; y < copy.Height; y += rows) {
      for (std::size_t x = 0; x < copy.WidthInBytes; x += width) {
        const Box box{x,
                      y,
                      z,
                      std::min(width, copy.WidthInBytes - x),
                      std::min(rows, copy.Height - y),
                      std::min(slices, copy.Depth - z)};
        if (const CUresult result = part(box); result != CUDA_SUCCESS) return result;
      }
    }
  }
  return CUDA_SUCCESS;
}

}  // namespace

CUresult copy_box(Call& call, const CUDA_MEMCPY3D& given, std::uint64_t stream, CopyMode mode,
                  const CopyContexts& contexts) {
  CUDA_MEMCPY3D copy = given;
  if (copy.WidthInBytes == 0 || copy.Height == 0 || copy.Depth == 0) return call.problem();
  if (copy.srcPitch == 0) copy.srcPitch = copy.srcXInBytes + copy.WidthInBytes;
  if (copy.dstPitch == 0) copy.dstPitch = copy.dstXInBytes + copy.WidthInBytes;
  if (copy.srcHeight == 0) copy.srcHeight = copy.srcY + copy.Height;
  if (copy.dstHeight == 0) copy.dstHeight = copy.dstY + copy.Height;
  const auto unknown = [&call](CUmemorytype type, CUarray array) {
    return type == CU_MEMORYTYPE_ARRAY && call.process().arrays.find(bits(array)) == nullptr;
  };
  if (unknown(copy.srcMemoryType, copy.srcArray) || unknown(copy.dstMemoryType, copy.dstArray)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  const bool linear_source = copy.srcMemoryType != CU_MEMORYTYPE_ARRAY;
  const bool linear_target = copy.dstMemoryType != CU_MEMORYTYPE_ARRAY;
  if ((linear_source && copy.srcPitch < copy.srcXInBytes + copy.WidthInBytes) ||
      (linear_target && copy.dstPitch < copy.dstXInBytes + copy.WidthInBytes)) {
    return CUDA_ERROR_INVALID_VALUE;
  }

  HostSide source{static_cast<std::byte*>(const_cast<void*>(copy.srcHost)),
                  copy.srcPitch,
                  copy.srcHeight,
                  copy.srcXInBytes,
                  copy.srcY,
                  copy.srcZ};
  HostSide target{static_cast<std::byte*>(copy.dstHost),
                  copy.dstPitch,
                  copy.dstHeight,
                  copy.dstXInBytes,
                  copy.dstY,
                  copy.dstZ};
  if (copy.srcMemoryType == CU_MEMORYTYPE_UNIFIED) source.base = from_bits<std::byte*>(copy.srcDevice);
  if (copy.dstMemoryType == CU_MEMORYTYPE_UNIFIED) target.base = from_bits<std::byte*>(copy.dstDevice);
  const auto reach = [&](const HostSide& side) {
    return bits(side.row(copy.Height - 1, copy.Depth - 1, copy.WidthInBytes)) - bits(side.base);
  };
  const Place from = find_place(call.process(), copy.srcMemoryType, copy.srcHost, copy.srcDevice,
                                linear_source ? reach(source) : 1);
  const void* target_host = copy.dstHost;
  const Place to = find_place(call.process(), copy.dstMemoryType, target_host, copy.dstDevice,
                              linear_target ? reach(target) : 1);
  copy.dstHost = const_cast<void*>(target_host);
  const auto misplaced = [&](Place place, const HostSide& side) {
    const std::byte* const first = side.row(0, 0, 0);
    return place == Place::pageable &&
           device_alone(call.process(), bits(first),
                        reach(side) - static_cast<std::uint64_t>(first - side.base));
  };
  const bool from_device = misplaced(from, source);
  const bool to_device = misplaced(to, target);
  if (from_device || to_device) {
    // With unified addresses memory is what it is, whatever the copy calls it.
    CUDA_MEMCPY3D right = given;
    if (from_device) {
      right.srcMemoryType = CU_MEMORYTYPE_DEVICE;
      right.srcDevice = bits(source.base);
    }
    if (to_device) {
      right.dstMemoryType = CU_MEMORYTYPE_DEVICE;
      right.dstDevice = bits(target.base);
    }
    return copy_box(call, right, stream, mode);
  }

  if (from == Place::pageable && to == Place::pageable) {
    if (const CUresult result = synchronize(call, stream); result != CUDA_SUCCESS) return result;
    for (std::size_t z = 0; z < copy.Depth; ++z) {
      for (std::size_t y = 0; y < copy.Height; ++y) {
        std::memmove(target.row(y, z, 0), source.row(y, z, 0), copy.WidthInBytes);
      }
    }
    return CUDA_SUCCESS;
  }
  if (from == Place::worker && to == Place::worker) {
    record::copy_3d record;
    name_contexts(call, contexts, record);
    record.stream = stream;
    record.copy = copy;
    if (mode == CopyMode::asynchronous) return call.post(record);
    if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) return result;
    return synchronize(call, stream);
  }
  if (const CUresult result = refuse_capture(call, stream); result != CUDA_SUCCESS) return result;
  const bool upload = from == Place::pageable;
  const HostSide& host = upload ? source : target;
  const CUresult result = for_parts(copy, call.connection().largest_block(), [&](const Box& box) {
    return send_part(call, copy, box, host, stream, upload, contexts);
  });
  return upload ? result : end_of_download(call, stream, result);
}

}  // namespace vgpu::client
