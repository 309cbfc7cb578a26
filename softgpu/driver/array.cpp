#include "softgpu/driver/array.hpp"

#include <algorithm>
#include <bit>

#include "softgpu/driver/device.hpp"
#include "softgpu/driver/driver.hpp"
#include "softgpu/memory/address_space.hpp"

namespace softgpu {
namespace {

constexpr unsigned known_flags = CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_SURFACE_LDST | CUDA_ARRAY3D_CUBEMAP |
                                 CUDA_ARRAY3D_TEXTURE_GATHER | CUDA_ARRAY3D_COLOR_ATTACHMENT;

std::size_t at_least_one(std::size_t value) {
  return std::max<std::size_t>(value, 1);
}

// Source of the rules: CUDA Driver API, cuArray3DCreate.
CUresult check(const CUDA_ARRAY3D_DESCRIPTOR& d) {
  if ((d.Flags & ~known_flags) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  if (d.NumChannels != 1 && d.NumChannels != 2 && d.NumChannels != 4) return CUDA_ERROR_INVALID_VALUE;
  if (!channel_of(d.Format)) {
    return d.Format <= CU_AD_FORMAT_FLOAT ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_SUPPORTED;
  }
  const bool layered = (d.Flags & CUDA_ARRAY3D_LAYERED) != 0;
  if (d.Width == 0 || (layered && d.Depth == 0)) return CUDA_ERROR_INVALID_VALUE;
  if (!layered && d.Depth != 0 && d.Height == 0) return CUDA_ERROR_INVALID_VALUE;
  if ((d.Flags & CUDA_ARRAY3D_CUBEMAP) != 0) {
    if (d.Width != d.Height || d.Depth == 0 || d.Depth % 6 != 0 || (!layered && d.Depth != 6))
      return CUDA_ERROR_INVALID_VALUE;
  }
  if ((d.Flags & CUDA_ARRAY3D_TEXTURE_GATHER) != 0 && (d.Height == 0 || d.Depth != 0))
    return CUDA_ERROR_INVALID_VALUE;
  const bool volume = d.Depth != 0 && !layered && (d.Flags & CUDA_ARRAY3D_CUBEMAP) == 0;
  const TextureLimits& limits = texture_limits;
  const std::size_t width = volume          ? limits.volume
                            : d.Height == 0 ? (layered ? limits.layered_width : limits.width_1d)
                                            : (layered ? limits.layered_width : limits.width_2d);
  const std::size_t height = volume ? limits.volume : layered ? limits.layered_width : limits.height_2d;
  const std::size_t depth = volume ? limits.volume : layered ? limits.layers : 6;
  return d.Width <= width && d.Height <= height && d.Depth <= depth ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// The image of an array whose texels begin at `base`; its bytes come back in `bytes`.
Image image_of(const CUDA_ARRAY3D_DESCRIPTOR& d, std::uint64_t base, std::uint64_t& bytes) {
  Image image;
  image.base = base;
  image.channel = *channel_of(d.Format);
  image.channels = static_cast<std::uint8_t>(d.NumChannels);
  image.width = static_cast<std::uint32_t>(d.Width);
  image.height = static_cast<std::uint32_t>(at_least_one(d.Height));
  image.depth = static_cast<std::uint32_t>(at_least_one(d.Depth));
  image.row_pitch = std::uint64_t{image.width} * image.texel_bytes();
  image.slice_pitch = image.row_pitch * image.height;
  bytes = image.slice_pitch * image.depth;
  return image;
}

std::shared_ptr<Array> array_of(const Context& context, const CUDA_ARRAY3D_DESCRIPTOR& d, const Image& image,
                                std::shared_ptr<const ArrayMemory> memory, bool level) {
  auto array = std::make_shared<Array>();
  array->context = &context;
  array->descriptor = d;
  array->image = image;
  array->memory = std::move(memory);
  array->level = level;
  return array;
}

CUresult allocate(Context& context, std::uint64_t bytes, std::shared_ptr<const ArrayMemory>& memory) {
  Driver& driver = Driver::get();
  const auto address = driver.memory.allocate(bytes, MemoryKind::array, &context, {.device = context.device});
  if (!address) return CUDA_ERROR_OUT_OF_MEMORY;
  memory = std::make_shared<const ArrayMemory>(*address, &context);
  return CUDA_SUCCESS;
}

}  // namespace

ArrayMemory::~ArrayMemory() {
  // A context that ended has given all its memory back already, and the address may be another's by now.
  Driver& driver = Driver::get();
  const auto found = driver.memory.find(address_);
  if (found && found->base == address_ && found->owner == context_) {
    static_cast<void>(driver.memory.release(address_, {MemoryKind::array}));
  }
}

std::optional<Channel> channel_of(CUarray_format format) {
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
      return Channel::u8;
    case CU_AD_FORMAT_UNSIGNED_INT16:
      return Channel::u16;
    case CU_AD_FORMAT_UNSIGNED_INT32:
      return Channel::u32;
    case CU_AD_FORMAT_SIGNED_INT8:
      return Channel::s8;
    case CU_AD_FORMAT_SIGNED_INT16:
      return Channel::s16;
    case CU_AD_FORMAT_SIGNED_INT32:
      return Channel::s32;
    case CU_AD_FORMAT_HALF:
      return Channel::f16;
    case CU_AD_FORMAT_FLOAT:
      return Channel::f32;
    default:
      return std::nullopt;
  }
}

CUresult make_array(Context& context, const CUDA_ARRAY3D_DESCRIPTOR& descriptor,
                    std::shared_ptr<Array>& made) {
  if (const CUresult error = check(descriptor); error != CUDA_SUCCESS) return error;
  std::uint64_t bytes = 0;
  Image image = image_of(descriptor, 0, bytes);
  std::shared_ptr<const ArrayMemory> memory;
  if (const CUresult error = allocate(context, bytes, memory); error != CUDA_SUCCESS) return error;
  image.base = memory->address();
  made = array_of(context, descriptor, image, std::move(memory), false);
  return CUDA_SUCCESS;
}

CUresult make_mipmapped_array(Context& context, const CUDA_ARRAY3D_DESCRIPTOR& descriptor, unsigned levels,
                              std::shared_ptr<MipmappedArray>& made) {
  if (const CUresult error = check(descriptor); error != CUDA_SUCCESS) return error;
  const bool volume = (descriptor.Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) == 0;
  const std::size_t longest =
      std::max({descriptor.Width, descriptor.Height, volume ? descriptor.Depth : std::size_t{1}});
  const auto most = std::min<unsigned>(static_cast<unsigned>(std::bit_width(longest)), max_mip_levels);
  if (levels == 0) return CUDA_ERROR_INVALID_VALUE;
  levels = std::min(levels, most);
  std::vector<CUDA_ARRAY3D_DESCRIPTOR> shapes;
  std::vector<std::uint64_t> offsets;
  std::uint64_t total = 0;
  CUDA_ARRAY3D_DESCRIPTOR shape = descriptor;
  for (unsigned level = 0; level < levels; ++level) {
    shapes.push_back(shape);
    offsets.push_back(total);
    std::uint64_t bytes = 0;
    image_of(shape, 0, bytes);
    total += (bytes + texture_alignment - 1) / texture_alignment * texture_alignment;
    const auto halved = [](std::size_t size) { return size == 0 ? 0 : at_least_one(size / 2); };
    shape.Width = halved(shape.Width);
    shape.Height = halved(shape.Height);
    if (volume) shape.Depth = halved(shape.Depth);
  }
  std::shared_ptr<const ArrayMemory> memory;
  if (const CUresult error = allocate(context, total, memory); error != CUDA_SUCCESS) return error;
  made = std::make_shared<MipmappedArray>();
  made->context = &context;
  made->descriptor = descriptor;
  for (unsigned level = 0; level < levels; ++level) {
    std::uint64_t bytes = 0;
    const Image image = image_of(shapes[level], memory->address() + offsets[level], bytes);
    made->levels.push_back(array_of(context, shapes[level], image, memory, true));
  }
  return CUDA_SUCCESS;
}

void drop_arrays(const Context& context) {
  Driver& driver = Driver::get();
  driver.mipmapped_arrays.remove_if([&](const MipmappedArray& a) { return a.context == &context; });
  driver.arrays.remove_if([&](const Array& a) { return a.context == &context; });
}

}  // namespace softgpu
