// Arrays, textures and surfaces. Their numbers in kernels are the driver's own; everything else is named by
// the client's handles.
#include <algorithm>

#include "daemon/worker/session.hpp"

namespace vgpu::worker {
namespace {

std::uint64_t channel_bytes(CUarray_format format) {
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
      return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
      return 2;
    default:
      return 4;
  }
}

// What an array takes at least, in the pieces of 64 bytes by 8 rows in which GPUs keep them; UINT64_MAX when
// that is more than any device has.
std::uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR& d) {
  constexpr std::uint64_t most = std::uint64_t{1} << 20;
  const auto at_least_one = [](std::size_t value) { return std::max<std::uint64_t>(value, 1); };
  if (d.Width > most || d.Height > most || d.Depth > most || d.NumChannels > 4) return UINT64_MAX;
  const std::uint64_t row = (at_least_one(d.Width) * d.NumChannels * channel_bytes(d.Format) + 63) / 64 * 64;
  const std::uint64_t rows = d.Height == 0 ? 1 : (d.Height + 7) / 8 * 8;
  __extension__ using Wide = unsigned __int128;
  const Wide bytes = static_cast<Wide>(row) * rows * at_least_one(d.Depth);
  return bytes >> 62 != 0 ? UINT64_MAX : static_cast<std::uint64_t>(bytes);
}

constexpr unsigned supported_flags = CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_SURFACE_LDST | CUDA_ARRAY3D_CUBEMAP |
                                     CUDA_ARRAY3D_TEXTURE_GATHER | CUDA_ARRAY3D_COLOR_ATTACHMENT;

}  // namespace

CUresult Session::handle(const record::cuArray3DCreate_v2& record, reply::cuArray3DCreate_v2&, Tail) {
  if (driver_.cuArray3DCreate_v2 == nullptr) return unsupported(record.header.call);
  if (!can_bind(HandleKind::array, record.array) || arrays_.contains(record.array))
    return CUDA_ERROR_INVALID_HANDLE;
  if ((record.descriptor.Flags & ~supported_flags) != 0) return unsupported(record.header.call);
  const std::uint64_t bytes = array_bytes(record.descriptor);
  if (bytes == UINT64_MAX) return CUDA_ERROR_INVALID_VALUE;
  if (!here().charge(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  auto charge = std::make_shared<Charge>(here(), bytes);
  CUarray array = nullptr;
  const CUresult result = driver_.cuArray3DCreate_v2(&array, &record.descriptor);
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::array, record.array, array);
  arrays_[record.array] = std::move(charge);
  here().page().allocations.fetch_add(1, std::memory_order_relaxed);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuArrayDestroy& record, reply::cuArrayDestroy&, Tail) {
  if (driver_.cuArrayDestroy == nullptr) return unsupported(record.header.call);
  CUarray array = nullptr;
  const auto charge = arrays_.find(record.array);
  // A level of a mipmapped array is charged, and ends, with the whole.
  if (!resolve(record.array, array) || charge == arrays_.end()) return CUDA_ERROR_INVALID_HANDLE;
  handles_.forget(HandleKind::array, record.array);
  pending_frees_.fetch_add(1);
  when_all_done_apart([this, array, held = std::move(charge->second)](CUresult) {
    errors_.note_unwaited(driver_.cuArrayDestroy(array));
    pending_frees_.fetch_sub(1);
  });
  arrays_.erase(charge);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMipmappedArrayCreate& record, reply::cuMipmappedArrayCreate&, Tail) {
  if (driver_.cuMipmappedArrayCreate == nullptr) return unsupported(record.header.call);
  if (!can_bind(HandleKind::mipmapped_array, record.array) || arrays_.contains(record.array)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  if ((record.descriptor.Flags & ~supported_flags) != 0) return unsupported(record.header.call);
  const std::uint64_t bytes = array_bytes(record.descriptor);
  if (bytes == UINT64_MAX || record.levels > 32) return CUDA_ERROR_INVALID_VALUE;
  // Each level has a half or a quarter of the one before.
  const std::uint64_t all = record.levels <= 1              ? bytes
                            : record.descriptor.Height != 0 ? bytes + bytes / 3
                                                            : bytes * 2;
  if (!here().charge(all)) return CUDA_ERROR_OUT_OF_MEMORY;
  auto charge = std::make_shared<Charge>(here(), all);
  CUmipmappedArray array = nullptr;
  const CUresult result = driver_.cuMipmappedArrayCreate(&array, &record.descriptor, record.levels);
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::mipmapped_array, record.array, array);
  arrays_[record.array] = std::move(charge);
  here().page().allocations.fetch_add(1, std::memory_order_relaxed);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMipmappedArrayGetLevel& record, reply::cuMipmappedArrayGetLevel&,
                         Tail) {
  if (driver_.cuMipmappedArrayGetLevel == nullptr) return unsupported(record.header.call);
  CUmipmappedArray array = nullptr;
  if (!resolve(record.array, array) || !can_bind(HandleKind::array, record.level) ||
      arrays_.contains(record.level)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  CUarray level = nullptr;
  const CUresult result = driver_.cuMipmappedArrayGetLevel(&level, array, record.index);
  if (result == CUDA_SUCCESS) bind(HandleKind::array, record.level, level, record.array);
  return result;
}

CUresult Session::handle(const record::cuMipmappedArrayDestroy& record, reply::cuMipmappedArrayDestroy&,
                         Tail) {
  if (driver_.cuMipmappedArrayDestroy == nullptr) return unsupported(record.header.call);
  CUmipmappedArray array = nullptr;
  const auto charge = arrays_.find(record.array);
  if (!resolve(record.array, array) || charge == arrays_.end()) return CUDA_ERROR_INVALID_HANDLE;
  handles_.forget(HandleKind::mipmapped_array, record.array);
  handles_.forget_if(HandleKind::array, [owner = record.array](std::uint64_t, std::uint64_t of,
                                                               std::uint16_t) { return of == owner; });
  pending_frees_.fetch_add(1);
  when_all_done_apart([this, array, held = std::move(charge->second)](CUresult) {
    errors_.note_unwaited(driver_.cuMipmappedArrayDestroy(array));
    pending_frees_.fetch_sub(1);
  });
  arrays_.erase(charge);
  return CUDA_SUCCESS;
}

CUresult Session::fix_up_resource(CUDA_RESOURCE_DESC& resource) const {
  switch (static_cast<int>(resource.resType)) {
    case CU_RESOURCE_TYPE_ARRAY: {
      CUarray array = nullptr;
      if (!resolve(reinterpret_cast<std::uint64_t>(resource.res.array.hArray), array))
        return CUDA_ERROR_INVALID_HANDLE;
      resource.res.array.hArray = array;
      return CUDA_SUCCESS;
    }
    case CU_RESOURCE_TYPE_MIPMAPPED_ARRAY: {
      CUmipmappedArray array = nullptr;
      if (!resolve(reinterpret_cast<std::uint64_t>(resource.res.mipmap.hMipmappedArray), array))
        return CUDA_ERROR_INVALID_HANDLE;
      resource.res.mipmap.hMipmappedArray = array;
      return CUDA_SUCCESS;
    }
    case CU_RESOURCE_TYPE_LINEAR:
      // A GPU checks each fetch by its page tables, and programs describe more than they have (cuda-samples'
      // convolutionFFT2D); the software GPU fetches from this process's memory.
      return reachable(resource.res.linear.devPtr, software_ ? resource.res.linear.sizeInBytes : 1)
                 ? CUDA_SUCCESS
                 : CUDA_ERROR_INVALID_VALUE;
    case CU_RESOURCE_TYPE_PITCH2D: {
      const auto& flat = resource.res.pitch2D;
      constexpr std::uint64_t most = std::uint64_t{1} << 31;
      if (flat.height == 0 || flat.height > most || flat.pitchInBytes > most || flat.width > most ||
          flat.numChannels > 4) {
        return CUDA_ERROR_INVALID_VALUE;
      }
      const std::uint64_t bytes =
          (flat.height - 1) * flat.pitchInBytes + flat.width * flat.numChannels * channel_bytes(flat.format);
      return reachable(flat.devPtr, bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult Session::handle(const record::cuTexObjectCreate& record, reply::cuTexObjectCreate& reply, Tail) {
  if (driver_.cuTexObjectCreate == nullptr) return unsupported(record.header.call);
  CUDA_RESOURCE_DESC resource = record.resource;
  if (const CUresult result = fix_up_resource(resource); result != CUDA_SUCCESS) return result;
  CUtexObject object = 0;
  const CUresult result = driver_.cuTexObjectCreate(&object, &resource, &record.texture,
                                                    record.has_view != 0 ? &record.view : nullptr);
  if (result != CUDA_SUCCESS) return result;
  textures_.emplace(contexts_.index(), object);
  reply.object = object;
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuTexObjectDestroy& record, reply::cuTexObjectDestroy&, Tail) {
  if (driver_.cuTexObjectDestroy == nullptr) return unsupported(record.header.call);
  if (textures_.erase({contexts_.index(), record.object}) == 0) return CUDA_ERROR_INVALID_VALUE;
  // Kernels that use it may still run.
  when_all_done([this, object = record.object, context = contexts_.current()](CUresult) {
    errors_.note_unwaited(contexts_.in_context(context, [&] { return driver_.cuTexObjectDestroy(object); }));
  });
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuSurfObjectCreate& record, reply::cuSurfObjectCreate& reply, Tail) {
  if (driver_.cuSurfObjectCreate == nullptr) return unsupported(record.header.call);
  CUDA_RESOURCE_DESC resource = record.resource;
  if (resource.resType != CU_RESOURCE_TYPE_ARRAY) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult result = fix_up_resource(resource); result != CUDA_SUCCESS) return result;
  CUsurfObject object = 0;
  const CUresult result = driver_.cuSurfObjectCreate(&object, &resource);
  if (result != CUDA_SUCCESS) return result;
  surfaces_.emplace(contexts_.index(), object);
  reply.object = object;
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuSurfObjectDestroy& record, reply::cuSurfObjectDestroy&, Tail) {
  if (driver_.cuSurfObjectDestroy == nullptr) return unsupported(record.header.call);
  if (surfaces_.erase({contexts_.index(), record.object}) == 0) return CUDA_ERROR_INVALID_VALUE;
  when_all_done([this, object = record.object, context = contexts_.current()](CUresult) {
    errors_.note_unwaited(contexts_.in_context(context, [&] { return driver_.cuSurfObjectDestroy(object); }));
  });
  return CUDA_SUCCESS;
}

}  // namespace vgpu::worker
