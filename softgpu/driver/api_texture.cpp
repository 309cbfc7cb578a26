// cuTexObject* and cuSurfObject*: descriptions become entries of the table that kernels read.
#include <mutex>
#include <optional>
#include <unordered_map>

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/array.hpp"
#include "softgpu/driver/device.hpp"
#include "softgpu/driver/graph.hpp"

using namespace softgpu;

namespace {

// What the program said, for the queries; and the arrays, kept while the object lives.
struct Description {
  CUDA_RESOURCE_DESC resource{};
  CUDA_TEXTURE_DESC texture{};
  std::optional<CUDA_RESOURCE_VIEW_DESC> view;
  bool surface = false;
};

struct Descriptions {
  std::mutex mutex;
  std::unordered_map<std::uint64_t, Description> of;
};
Descriptions& descriptions() {
  static auto* const instance = new Descriptions;
  return *instance;
}

std::optional<Description> description(std::uint64_t handle, bool surface) {
  Descriptions& all = descriptions();
  const std::lock_guard lock(all.mutex);
  const auto found = all.of.find(handle);
  if (found == all.of.end() || found->second.surface != surface) return std::nullopt;
  return found->second;
}

// A view's format as channel type and count; false for compressed ones.
bool view_format(CUresourceViewFormat format, Channel& channel, std::uint8_t& channels) {
  static constexpr Channel kinds[] = {Channel::u8,  Channel::s8,  Channel::u16, Channel::s16,
                                      Channel::u32, Channel::s32, Channel::f16, Channel::f32};
  const unsigned index = static_cast<unsigned>(format) - 1;
  if (format == CU_RES_VIEW_FORMAT_NONE || index / 3 >= std::size(kinds)) return false;
  channel = kinds[index / 3];
  channels = static_cast<std::uint8_t>(1U << index % 3);
  return true;
}

CUresult image_of_memory(Driver& driver, CUdeviceptr address, CUarray_format format, unsigned channels,
                         std::size_t width, std::size_t height, std::size_t pitch, Image& image) {
  const auto channel = channel_of(format);
  if (!channel || (channels != 1 && channels != 2 && channels != 4)) return CUDA_ERROR_INVALID_VALUE;
  if (address % texture_alignment != 0 || width == 0 || height == 0) return CUDA_ERROR_INVALID_VALUE;
  image.base = address;
  image.channel = *channel;
  image.channels = static_cast<std::uint8_t>(channels);
  image.width = static_cast<std::uint32_t>(width);
  image.height = static_cast<std::uint32_t>(height);
  image.row_pitch = pitch;
  image.slice_pitch = pitch * height;
  if (height > 1 && (pitch < width * image.texel_bytes() || pitch % texture_pitch_alignment != 0))
    return CUDA_ERROR_INVALID_VALUE;
  const std::size_t bytes = (height - 1) * pitch + width * image.texel_bytes();
  return driver.memory.accessible(address, bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult levels_of(Driver& driver, const CUDA_RESOURCE_DESC& resource, Texture& texture) {
  texture.level_count = 1;
  switch (resource.resType) {
    case CU_RESOURCE_TYPE_ARRAY: {
      const auto array = driver.arrays.find(resource.res.array.hArray);
      if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
      texture.levels[0] = array->image;
      return CUDA_SUCCESS;
    }
    case CU_RESOURCE_TYPE_MIPMAPPED_ARRAY: {
      const auto array = driver.mipmapped_arrays.find(resource.res.mipmap.hMipmappedArray);
      if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
      texture.level_count = static_cast<std::uint32_t>(array->levels.size());
      for (std::size_t k = 0; k < array->levels.size(); ++k) texture.levels[k] = array->levels[k]->image;
      return CUDA_SUCCESS;
    }
    case CU_RESOURCE_TYPE_LINEAR: {
      const auto& linear = resource.res.linear;
      const auto channel = channel_of(linear.format);
      if (!channel || linear.numChannels == 0 || linear.numChannels > 4) return CUDA_ERROR_INVALID_VALUE;
      const std::size_t width = linear.sizeInBytes / (channel_bytes(*channel) * linear.numChannels);
      if (width > texture_limits.linear) return CUDA_ERROR_INVALID_VALUE;
      texture.buffer = true;
      return image_of_memory(driver, linear.devPtr, linear.format, linear.numChannels, width, 1,
                             linear.sizeInBytes, texture.levels[0]);
    }
    case CU_RESOURCE_TYPE_PITCH2D: {
      const auto& flat = resource.res.pitch2D;
      if (flat.width > texture_limits.width_2d || flat.height > texture_limits.height_2d)
        return CUDA_ERROR_INVALID_VALUE;
      return image_of_memory(driver, flat.devPtr, flat.format, flat.numChannels, flat.width, flat.height,
                             flat.pitchInBytes, texture.levels[0]);
    }
  }
  return CUDA_ERROR_INVALID_VALUE;
}

// The part of the resource that a view shows, in the view's format.
CUresult apply_view(const CUDA_RESOURCE_VIEW_DESC& view, Texture& texture) {
  if (view.firstMipmapLevel > view.lastMipmapLevel || view.lastMipmapLevel >= texture.level_count)
    return CUDA_ERROR_INVALID_VALUE;
  if (view.firstLayer > view.lastLayer || view.lastLayer >= texture.levels[0].depth)
    return CUDA_ERROR_INVALID_VALUE;
  texture.level_count = view.lastMipmapLevel - view.firstMipmapLevel + 1;
  for (unsigned k = 0; k < texture.level_count; ++k) {
    Image image = texture.levels[k + view.firstMipmapLevel];
    if (view.lastLayer != 0) {
      image.base += view.firstLayer * image.slice_pitch;
      image.depth = view.lastLayer - view.firstLayer + 1;
    }
    if (view.format != CU_RES_VIEW_FORMAT_NONE) {
      const std::uint32_t before = image.texel_bytes();
      if (!view_format(view.format, image.channel, image.channels)) return CUDA_ERROR_NOT_SUPPORTED;
      if (image.texel_bytes() != before) return CUDA_ERROR_INVALID_VALUE;
    }
    texture.levels[k] = image;
  }
  return CUDA_SUCCESS;
}

CUresult apply(const CUDA_TEXTURE_DESC& desc, Texture& texture) {
  constexpr unsigned known = CU_TRSF_READ_AS_INTEGER | CU_TRSF_NORMALIZED_COORDINATES | CU_TRSF_SRGB |
                             CU_TRSF_DISABLE_TRILINEAR_OPTIMIZATION | CU_TRSF_SEAMLESS_CUBEMAP;
  if ((desc.flags & ~known) != 0) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned k = 0; k < 3; ++k) {
    switch (desc.addressMode[k]) {
      case CU_TR_ADDRESS_MODE_WRAP:
        texture.address[k] = Address::wrap;
        break;
      case CU_TR_ADDRESS_MODE_CLAMP:
        texture.address[k] = Address::clamp;
        break;
      case CU_TR_ADDRESS_MODE_MIRROR:
        texture.address[k] = Address::mirror;
        break;
      case CU_TR_ADDRESS_MODE_BORDER:
        texture.address[k] = Address::border;
        break;
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
  }
  for (const CUfilter_mode mode : {desc.filterMode, desc.mipmapFilterMode})
    if (mode != CU_TR_FILTER_MODE_POINT && mode != CU_TR_FILTER_MODE_LINEAR) return CUDA_ERROR_INVALID_VALUE;
  texture.linear = desc.filterMode == CU_TR_FILTER_MODE_LINEAR;
  texture.mip_linear = desc.mipmapFilterMode == CU_TR_FILTER_MODE_LINEAR;
  texture.as_integer = (desc.flags & CU_TRSF_READ_AS_INTEGER) != 0;
  texture.normalized = (desc.flags & CU_TRSF_NORMALIZED_COORDINATES) != 0;
  texture.srgb = (desc.flags & CU_TRSF_SRGB) != 0 && texture.levels[0].channel == Channel::u8;
  texture.level_bias = desc.mipmapLevelBias;
  texture.level_min = desc.minMipmapLevelClamp;
  texture.level_max = desc.maxMipmapLevelClamp;
  for (unsigned k = 0; k < 4; ++k) texture.border[k] = desc.borderColor[k];
  if (texture.linear && !texture.gives_float()) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

CUresult publish(const Texture& texture, const Description& description, unsigned long long* out) {
  const std::uint64_t handle = TextureTable::get().add(texture, description.surface);
  if (handle == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  Descriptions& all = descriptions();
  const std::lock_guard lock(all.mutex);
  all.of[handle] = description;
  *out = handle;
  return CUDA_SUCCESS;
}

// Kernels that use the object may be under way.
CUresult destroy(unsigned long long handle, bool surface) {
  return in_context([&](Driver&, Context& context) -> CUresult {
    if (TextureTable::get().find(handle, surface) == nullptr) return CUDA_ERROR_INVALID_VALUE;
    context.synchronize();
    if (!TextureTable::get().remove(handle, surface)) return CUDA_ERROR_INVALID_VALUE;
    Descriptions& all = descriptions();
    const std::lock_guard lock(all.mutex);
    all.of.erase(handle);
    return CUDA_SUCCESS;
  });
}

template <class Out, class Get>
CUresult tell(Out* out, unsigned long long handle, bool surface, Get&& get) {
  return in_context([&](Driver&, Context&) -> CUresult {
    const auto found = description(handle, surface);
    if (out == nullptr || !found) return CUDA_ERROR_INVALID_VALUE;
    return get(*found);
  });
}

}  // namespace

SOFTGPU_API cuTexObjectCreate(CUtexObject* out, const CUDA_RESOURCE_DESC* resource,
                              const CUDA_TEXTURE_DESC* desc, const CUDA_RESOURCE_VIEW_DESC* view) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    if (out == nullptr || resource == nullptr || desc == nullptr || resource->flags != 0)
      return CUDA_ERROR_INVALID_VALUE;
    Texture texture;
    if (const CUresult error = levels_of(driver, *resource, texture); error != CUDA_SUCCESS) return error;
    if (view != nullptr) {
      if (texture.buffer || resource->resType == CU_RESOURCE_TYPE_PITCH2D) return CUDA_ERROR_INVALID_VALUE;
      if (const CUresult error = apply_view(*view, texture); error != CUDA_SUCCESS) return error;
    }
    if (const CUresult error = apply(*desc, texture); error != CUDA_SUCCESS) return error;
    Description description{*resource, *desc, std::nullopt, false};
    if (view != nullptr) description.view = *view;
    return publish(texture, description, out);
  });
}

SOFTGPU_API cuTexObjectDestroy(CUtexObject object) {
  return destroy(object, false);
}

SOFTGPU_API cuTexObjectGetResourceDesc(CUDA_RESOURCE_DESC* out, CUtexObject object) {
  return tell(out, object, false, [&](const Description& d) {
    *out = d.resource;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuTexObjectGetTextureDesc(CUDA_TEXTURE_DESC* out, CUtexObject object) {
  return tell(out, object, false, [&](const Description& d) {
    *out = d.texture;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuTexObjectGetResourceViewDesc(CUDA_RESOURCE_VIEW_DESC* out, CUtexObject object) {
  return tell(out, object, false, [&](const Description& d) {
    if (!d.view) return CUDA_ERROR_INVALID_VALUE;
    *out = *d.view;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuSurfObjectCreate(CUsurfObject* out, const CUDA_RESOURCE_DESC* resource) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    if (out == nullptr || resource == nullptr || resource->flags != 0 ||
        resource->resType != CU_RESOURCE_TYPE_ARRAY) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const auto array = driver.arrays.find(resource->res.array.hArray);
    if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if ((array->descriptor.Flags & CUDA_ARRAY3D_SURFACE_LDST) == 0) return CUDA_ERROR_INVALID_VALUE;
    Texture texture;
    texture.levels[0] = array->image;
    return publish(texture, {*resource, {}, std::nullopt, true}, out);
  });
}

SOFTGPU_API cuSurfObjectDestroy(CUsurfObject object) {
  return destroy(object, true);
}

SOFTGPU_API cuSurfObjectGetResourceDesc(CUDA_RESOURCE_DESC* out, CUsurfObject object) {
  return tell(out, object, true, [&](const Description& d) {
    *out = d.resource;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceGetTexture1DLinearMaxWidth(std::size_t* out, CUarray_format format, unsigned channels,
                                               CUdevice device) {
  return with_device(device, [&](Driver&, Device&) -> CUresult {
    if (out == nullptr || !channel_of(format) || channels == 0 || channels > 4)
      return CUDA_ERROR_INVALID_VALUE;
    *out = texture_limits.linear;
    return CUDA_SUCCESS;
  });
}
