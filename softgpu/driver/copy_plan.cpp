#include "softgpu/driver/copy_plan.hpp"

#include <cstring>

#include "softgpu/driver/array.hpp"
#include "softgpu/driver/driver.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/peer.hpp"
#include "softgpu/memory/address_space.hpp"
#include "softgpu/memory/guarded_access.hpp"

namespace softgpu {
namespace {

// Bytes from the first to the last byte that a side of a box touches.
std::size_t extent(const CopyWork& box, std::size_t pitch, std::size_t slice) {
  return (box.depth - 1) * slice + (box.height - 1) * pitch + box.width;
}

// Up to here a source is taken along even when its stream is idle and waiting would be possible.
constexpr std::size_t always_staged = std::size_t{64} << 10;

// False when the source cannot be read.
bool stage(CopyWork& box) {
  const std::size_t rows = box.height * box.depth;
  auto bytes = std::make_shared<std::vector<std::byte>>(box.width * rows);
  const bool read = guarded_access([&] {
    std::byte* to = bytes->data();
    for (std::size_t z = 0; z < box.depth; ++z) {
      for (std::size_t y = 0; y < box.height; ++y) {
        const auto from =
            static_cast<std::uintptr_t>(box.source + z * box.source_slice + y * box.source_pitch);
        std::memcpy(to, reinterpret_cast<const void*>(from),  // NOLINT(performance-no-int-to-ptr)
                    box.width);
        to += box.width;
      }
    }
  });
  if (!read) return false;
  box.source = reinterpret_cast<std::uintptr_t>(bytes->data());
  box.source_pitch = box.width;
  box.source_slice = box.width * box.height;
  box.staged = std::move(bytes);
  return true;
}

bool idle(const Stream& stream) {
  const std::unique_lock lock(Driver::get().scheduler.mutex());
  return stream.context.predecessors_locked(stream).empty();
}

}  // namespace

CUresult classify(std::uint64_t address, std::size_t bytes, Claim claim, Place& place) {
  const DeviceMemory& memory = Driver::get().memory;
  if (const auto found = memory.find(address)) {
    const bool host = found->kind == MemoryKind::host || found->kind == MemoryKind::registered;
    place = host ? Place::pinned : Place::device;
    if (memory.accessible(address, bytes)) return CUDA_SUCCESS;
    // A run that begins in registered memory and goes on in other memory of the program is ordinary host
    // memory.
    if (found->kind != MemoryKind::registered || claim == Claim::device) return CUDA_ERROR_INVALID_VALUE;
    place = Place::pageable;
    return CUDA_SUCCESS;
  }
  if (claim == Claim::device || address == 0 || in_device_window(address)) return CUDA_ERROR_INVALID_VALUE;
  place = Place::pageable;
  return CUDA_SUCCESS;
}

CopyPlan flat_plan(std::uint64_t destination, Claim destination_claim, std::uint64_t source,
                   Claim source_claim, std::size_t bytes) {
  CopyPlan plan;
  plan.box.destination = destination;
  plan.box.source = source;
  plan.box.width = bytes;
  plan.box.destination_pitch = plan.box.source_pitch = bytes;
  plan.box.destination_slice = plan.box.source_slice = bytes;
  plan.destination = destination_claim;
  plan.source = source_claim;
  return plan;
}

CUDA_MEMCPY3D widened(const CUDA_MEMCPY2D& params) {
  CUDA_MEMCPY3D wide{};
  wide.srcXInBytes = params.srcXInBytes;
  wide.srcY = params.srcY;
  wide.srcMemoryType = params.srcMemoryType;
  wide.srcHost = params.srcHost;
  wide.srcDevice = params.srcDevice;
  wide.srcArray = params.srcArray;
  wide.srcPitch = params.srcPitch;
  wide.dstXInBytes = params.dstXInBytes;
  wide.dstY = params.dstY;
  wide.dstMemoryType = params.dstMemoryType;
  wide.dstHost = params.dstHost;
  wide.dstDevice = params.dstDevice;
  wide.dstArray = params.dstArray;
  wide.dstPitch = params.dstPitch;
  wide.WidthInBytes = params.WidthInBytes;
  wide.Height = params.Height;
  wide.Depth = 1;
  return wide;
}

namespace {

// One end of a 3D copy: where its first row begins and how rows and slices follow each other.
struct Side {
  std::uint64_t address = 0;
  Claim claim = Claim::any;
  std::size_t pitch = 0, slice = 0;
};

struct SideParams {
  CUmemorytype type;
  const void* host;
  CUdeviceptr device;
  CUarray array;
  std::size_t x, y, z, pitch, height;
};

CUresult side_of(const SideParams& p, const CUDA_MEMCPY3D& copy, Side& side) {
  switch (p.type) {
    case CU_MEMORYTYPE_HOST:
      side.address = reinterpret_cast<std::uintptr_t>(p.host);
      side.claim = Claim::host;
      break;
    case CU_MEMORYTYPE_DEVICE:
      side.address = p.device;
      side.claim = Claim::device;
      break;
    case CU_MEMORYTYPE_UNIFIED:
      side.address = p.device;
      break;
    case CU_MEMORYTYPE_ARRAY: {
      const auto array = Driver::get().arrays.find(p.array);
      if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
      const Image& image = array->image;
      const auto inside = [](std::size_t at, std::size_t count, std::uint64_t size) {
        return at <= size && size - at >= count;
      };
      if (!inside(p.x, copy.WidthInBytes, image.row_pitch) || !inside(p.y, copy.Height, image.height) ||
          !inside(p.z, copy.Depth, image.depth) || p.x % image.texel_bytes() != 0 ||
          copy.WidthInBytes % image.texel_bytes() != 0) {
        return CUDA_ERROR_INVALID_VALUE;
      }
      side = {image.base, Claim::device, image.row_pitch, image.slice_pitch};
      break;
    }
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  if (p.type != CU_MEMORYTYPE_ARRAY) {
    // A pitch of 0 means rows without gaps, a height of 0 the copy's own.
    side.pitch = p.pitch != 0 ? p.pitch : copy.WidthInBytes;
    side.slice = side.pitch * (p.height != 0 ? p.height : copy.Height);
    if (copy.Height > 1 && side.pitch < p.x + copy.WidthInBytes) return CUDA_ERROR_INVALID_VALUE;
  }
  side.address += p.z * side.slice + p.y * side.pitch + p.x;
  return CUDA_SUCCESS;
}

}  // namespace

CUresult plan_of(const CUDA_MEMCPY3D& params, CopyPlan& plan) {
  if (params.srcLOD != 0 || params.dstLOD != 0) return CUDA_ERROR_INVALID_VALUE;
  Side source;
  Side destination;
  const SideParams from{params.srcMemoryType, params.srcHost,     params.srcDevice,
                        params.srcArray,      params.srcXInBytes, params.srcY,
                        params.srcZ,          params.srcPitch,    params.srcHeight};
  const SideParams to{params.dstMemoryType, params.dstHost,     params.dstDevice,
                      params.dstArray,      params.dstXInBytes, params.dstY,
                      params.dstZ,          params.dstPitch,    params.dstHeight};
  if (const CUresult error = side_of(from, params, source); error != CUDA_SUCCESS) return error;
  if (const CUresult error = side_of(to, params, destination); error != CUDA_SUCCESS) return error;
  CopyWork& box = plan.box;
  box.width = params.WidthInBytes;
  box.height = params.Height;
  box.depth = params.Depth;
  box.source = source.address;
  box.source_pitch = source.pitch;
  box.source_slice = source.slice;
  box.destination = destination.address;
  box.destination_pitch = destination.pitch;
  box.destination_slice = destination.slice;
  plan.source = source.claim;
  plan.destination = destination.claim;
  box.described = std::make_shared<const CUDA_MEMCPY3D>(params);
  return CUDA_SUCCESS;
}

CUresult check(const CopyPlan& plan, Place& destination, Place& source) {
  const CopyWork& box = plan.box;
  const CUresult error = classify(box.destination, extent(box, box.destination_pitch, box.destination_slice),
                                  plan.destination, destination);
  if (error != CUDA_SUCCESS) return error;
  return classify(box.source, extent(box, box.source_pitch, box.source_slice), plan.source, source);
}

CUresult copy(Stream& stream, CopyPlan plan, bool blocking) {
  if (plan.box.width == 0 || plan.box.height == 0 || plan.box.depth == 0) return CUDA_SUCCESS;
  Place destination{};
  Place source{};
  if (const CUresult error = check(plan, destination, source); error != CUDA_SUCCESS) return error;
  const bool capturing = stream.capturing.load(std::memory_order_acquire);
  if (blocking) {
    const CUresult refused = capturing ? refuse_capturing(stream) : refuse_in_capture();
    if (refused != CUDA_SUCCESS) return refused;
  }
  if (capturing) return enqueue(stream, std::move(plan.box));
  bool wait = destination == Place::pageable ||
              (blocking && !(destination == Place::device && source == Place::device));
  if (!wait && source == Place::pageable) {
    const std::size_t bytes = plan.box.width * plan.box.height * plan.box.depth;
    if (bytes > always_staged && idle(stream)) {
      wait = true;
    } else if (!stage(plan.box)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  const bool between = destination == Place::device && source == Place::device;
  const std::vector<Context*> others =
      between ? contexts_concerned(stream, plan.box) : std::vector<Context*>();
  if (!others.empty()) {
    wait_for_contexts(stream, others);
    OperationRef operation;
    const CUresult error = enqueue(stream, std::move(plan.box), &operation);
    hold_contexts(others, operation);
    return error;
  }
  if (!wait) return enqueue(stream, std::move(plan.box));
  OperationRef operation;
  {
    const Scheduler::WillWait quiet;
    const CUresult error = enqueue(stream, std::move(plan.box), &operation);
    if (error != CUDA_SUCCESS || operation == nullptr) return error;
  }
  Driver::get().scheduler.wait(operation);
  if (blocking) flush_printf();
  return stream.context.error();
}

}  // namespace softgpu
