// Arrays, textures and surfaces. What the program said when it made one is kept here, so that questions about
// it are answered without the worker.
#include <algorithm>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "libclient/cuda/stub_runtime.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

struct Description {
  CUDA_RESOURCE_DESC resource{};
  CUDA_TEXTURE_DESC texture{};
  std::optional<CUDA_RESOURCE_VIEW_DESC> view;
};

// Texture or surface objects by their numbers. Thread-safe.
class Descriptions {
 public:
  void insert(std::uint64_t object, const Description& description) {
    const std::lock_guard lock(mutex_);
    of_[object] = description;
  }
  std::optional<Description> find(std::uint64_t object) {
    const std::lock_guard lock(mutex_);
    const auto found = of_.find(object);
    if (found == of_.end()) return std::nullopt;
    return found->second;
  }
  bool remove(std::uint64_t object) {
    const std::lock_guard lock(mutex_);
    return of_.erase(object) != 0;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::uint64_t, Description> of_;
};

// Threads may use them while the process exits.
Descriptions& textures() {
  static auto* const instance = new Descriptions;
  return *instance;
}
Descriptions& surfaces() {
  static auto* const instance = new Descriptions;
  return *instance;
}

CUresult create_array(CUarray* out, const CUDA_ARRAY3D_DESCRIPTOR& descriptor) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.unsafe_in_capture(); result != CUDA_SUCCESS) return result;
  const auto [array, handle] = call.process().arrays.create();
  if (array == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  array->descriptor = descriptor;
  record::cuArray3DCreate_v2 record;
  record.array = handle;
  record.descriptor = descriptor;
  return hand_out(call.process().arrays, handle, call.ask(record), out);
}

CUresult descriptor_of(CUarray handle, CUDA_ARRAY3D_DESCRIPTOR& out) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const Array* const array = call.process().arrays.find(bits(handle));
  if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  out = array->descriptor;
  return CUDA_SUCCESS;
}

template <class Record>
CUresult destroy_object(Descriptions& known, std::uint64_t object) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (!known.remove(object)) return CUDA_ERROR_INVALID_VALUE;
  Record record;
  record.object = object;
  return call.post(record);
}

template <class Out, class Get>
CUresult tell(Descriptions& known, std::uint64_t object, Out* out, Get&& get) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const auto found = known.find(object);
  if (out == nullptr || !found) return CUDA_ERROR_INVALID_VALUE;
  return get(*found);
}

// As it is on the levels of a mipmapped array: each half of the one before, never less than one.
CUDA_ARRAY3D_DESCRIPTOR level_of(CUDA_ARRAY3D_DESCRIPTOR shape, unsigned level) {
  const auto reduced = [level](std::size_t size) {
    return size == 0 ? size : std::max<std::size_t>(level < 64 ? size >> level : 0, 1);
  };
  shape.Width = reduced(shape.Width);
  shape.Height = reduced(shape.Height);
  if ((shape.Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) == 0) shape.Depth = reduced(shape.Depth);
  return shape;
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;
namespace record = vgpu::record;
namespace reply = vgpu::reply;

VGPU_EXPORT CUresult cuArrayCreate_v2(CUarray* pHandle, const CUDA_ARRAY_DESCRIPTOR* pAllocateArray) {
  if (pHandle == nullptr || pAllocateArray == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};
  descriptor.Width = pAllocateArray->Width;
  descriptor.Height = pAllocateArray->Height;
  descriptor.Format = pAllocateArray->Format;
  descriptor.NumChannels = pAllocateArray->NumChannels;
  return create_array(pHandle, descriptor);
}

VGPU_EXPORT CUresult cuArray3DCreate_v2(CUarray* pHandle, const CUDA_ARRAY3D_DESCRIPTOR* pAllocateArray) {
  if (pHandle == nullptr || pAllocateArray == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return create_array(pHandle, *pAllocateArray);
}

VGPU_EXPORT CUresult cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR* pArrayDescriptor, CUarray hArray) {
  if (pArrayDescriptor == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUDA_ARRAY3D_DESCRIPTOR full{};
  if (const CUresult result = descriptor_of(hArray, full); result != CUDA_SUCCESS) return result;
  *pArrayDescriptor = {full.Width, full.Height, full.Format, full.NumChannels};
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR* pArrayDescriptor, CUarray hArray) {
  if (pArrayDescriptor == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return descriptor_of(hArray, *pArrayDescriptor);
}

VGPU_EXPORT CUresult cuArrayDestroy(CUarray hArray) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const Array* const array = call.process().arrays.find(bits(hArray));
  if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (array->whole != 0) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult result = call.unsafe_in_capture(); result != CUDA_SUCCESS) return result;
  call.process().arrays.destroy(bits(hArray));
  record::cuArrayDestroy record;
  record.array = bits(hArray);
  return call.post(record);
}

VGPU_EXPORT CUresult cuMipmappedArrayCreate(CUmipmappedArray* pHandle,
                                            const CUDA_ARRAY3D_DESCRIPTOR* pMipmappedArrayDesc,
                                            unsigned int numMipmapLevels) {
  if (pHandle == nullptr || pMipmappedArrayDesc == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.unsafe_in_capture(); result != CUDA_SUCCESS) return result;
  const auto [array, handle] = call.process().mipmapped_arrays.create();
  if (array == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  array->descriptor = *pMipmappedArrayDesc;
  record::cuMipmappedArrayCreate record;
  record.array = handle;
  record.descriptor = *pMipmappedArrayDesc;
  record.levels = numMipmapLevels;
  return hand_out(call.process().mipmapped_arrays, handle, call.ask(record), pHandle);
}

VGPU_EXPORT CUresult cuMipmappedArrayGetLevel(CUarray* pLevelArray, CUmipmappedArray hMipmappedArray,
                                              unsigned int level) {
  if (pLevelArray == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  MipmappedArray* const whole = call.process().mipmapped_arrays.find(bits(hMipmappedArray));
  if (whole == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const std::lock_guard lock(whole->mutex);
  // A level has one handle, however often it is asked for.
  if (const auto known = whole->levels.find(level); known != whole->levels.end()) {
    *pLevelArray = from_bits<CUarray>(known->second);
    return CUDA_SUCCESS;
  }
  const auto [array, handle] = call.process().arrays.create();
  if (array == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  array->whole = bits(hMipmappedArray);
  array->descriptor = level_of(whole->descriptor, level);
  record::cuMipmappedArrayGetLevel record;
  record.level = handle;
  record.array = bits(hMipmappedArray);
  record.index = level;
  const CUresult result = hand_out(call.process().arrays, handle, call.ask(record), pLevelArray);
  if (result == CUDA_SUCCESS) whole->levels[level] = handle;
  return result;
}

VGPU_EXPORT CUresult cuMipmappedArrayDestroy(CUmipmappedArray hMipmappedArray) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  MipmappedArray* const whole = call.process().mipmapped_arrays.find(bits(hMipmappedArray));
  if (whole == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult result = call.unsafe_in_capture(); result != CUDA_SUCCESS) return result;
  {
    const std::lock_guard lock(whole->mutex);
    for (const auto& [level, handle] : whole->levels) call.process().arrays.destroy(handle);
  }
  call.process().mipmapped_arrays.destroy(bits(hMipmappedArray));
  record::cuMipmappedArrayDestroy record;
  record.array = bits(hMipmappedArray);
  return call.post(record);
}

VGPU_EXPORT CUresult cuTexObjectCreate(CUtexObject* pTexObject, const CUDA_RESOURCE_DESC* pResDesc,
                                       const CUDA_TEXTURE_DESC* pTexDesc,
                                       const CUDA_RESOURCE_VIEW_DESC* pResViewDesc) {
  if (pTexObject == nullptr || pResDesc == nullptr || pTexDesc == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  record::cuTexObjectCreate record;
  record.resource = *pResDesc;
  record.texture = *pTexDesc;
  record.has_view = pResViewDesc != nullptr ? 1 : 0;
  if (pResViewDesc != nullptr) record.view = *pResViewDesc;
  reply::cuTexObjectCreate reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  Description description{*pResDesc, *pTexDesc, std::nullopt};
  if (pResViewDesc != nullptr) description.view = *pResViewDesc;
  textures().insert(reply.object, description);
  *pTexObject = reply.object;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuTexObjectDestroy(CUtexObject texObject) {
  return destroy_object<record::cuTexObjectDestroy>(textures(), texObject);
}

VGPU_EXPORT CUresult cuTexObjectGetResourceDesc(CUDA_RESOURCE_DESC* pResDesc, CUtexObject texObject) {
  return tell(textures(), texObject, pResDesc, [&](const Description& d) {
    *pResDesc = d.resource;
    return CUDA_SUCCESS;
  });
}

VGPU_EXPORT CUresult cuTexObjectGetTextureDesc(CUDA_TEXTURE_DESC* pTexDesc, CUtexObject texObject) {
  return tell(textures(), texObject, pTexDesc, [&](const Description& d) {
    *pTexDesc = d.texture;
    return CUDA_SUCCESS;
  });
}

VGPU_EXPORT CUresult cuTexObjectGetResourceViewDesc(CUDA_RESOURCE_VIEW_DESC* pResViewDesc,
                                                    CUtexObject texObject) {
  return tell(textures(), texObject, pResViewDesc, [&](const Description& d) {
    if (!d.view) return CUDA_ERROR_INVALID_VALUE;
    *pResViewDesc = *d.view;
    return CUDA_SUCCESS;
  });
}

VGPU_EXPORT CUresult cuSurfObjectCreate(CUsurfObject* pSurfObject, const CUDA_RESOURCE_DESC* pResDesc) {
  if (pSurfObject == nullptr || pResDesc == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  record::cuSurfObjectCreate record;
  record.resource = *pResDesc;
  reply::cuSurfObjectCreate reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  surfaces().insert(reply.object, Description{*pResDesc, {}, std::nullopt});
  *pSurfObject = reply.object;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuSurfObjectDestroy(CUsurfObject surfObject) {
  return destroy_object<record::cuSurfObjectDestroy>(surfaces(), surfObject);
}

VGPU_EXPORT CUresult cuSurfObjectGetResourceDesc(CUDA_RESOURCE_DESC* pResDesc, CUsurfObject surfObject) {
  return tell(surfaces(), surfObject, pResDesc, [&](const Description& d) {
    *pResDesc = d.resource;
    return CUDA_SUCCESS;
  });
}
