#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "softgpu/texture/texture.hpp"

namespace softgpu {
namespace {

// A place in one dimension: the texels before and after, and the second one's weight in 256ths.
struct Place {
  std::int64_t first = 0, second = 0;
  float weight = 0;
};

constexpr std::int64_t outside = -1;

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half} >> 15 << 31;
  const std::uint32_t exponent = half >> 10 & 31;
  const std::uint32_t mantissa = half & 1023;
  if (exponent == 0) {
    const float small = static_cast<float>(mantissa) * 0x1p-24F;
    return sign != 0 ? -small : small;
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000U | mantissa << 13);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

float srgb_to_linear(float value) {
  return value <= 0.04045F ? value / 12.92F : std::pow((value + 0.055F) / 1.055F, 2.4F);
}

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// A channel's number as it lies in memory, integers extended.
std::uint32_t raw(const std::byte* at, Channel channel) {
  switch (channel) {
    case Channel::u8:
      return load<std::uint8_t>(at);
    case Channel::s8:
      return static_cast<std::uint32_t>(std::int32_t{load<std::int8_t>(at)});
    case Channel::u16:
      return load<std::uint16_t>(at);
    case Channel::s16:
      return static_cast<std::uint32_t>(std::int32_t{load<std::int16_t>(at)});
    case Channel::f16:
      return std::bit_cast<std::uint32_t>(half_to_float(load<std::uint16_t>(at)));
    default:
      return load<std::uint32_t>(at);
  }
}

float normalized(std::uint32_t value, Channel channel, bool srgb) {
  const auto number = static_cast<float>(static_cast<std::int32_t>(value));
  switch (channel) {
    case Channel::u8:
      return srgb ? srgb_to_linear(number / 255.0F) : number / 255.0F;
    case Channel::u16:
      return number / 65535.0F;
    case Channel::s8:
      return std::max(number / 127.0F, -1.0F);
    case Channel::s16:
      return std::max(number / 32767.0F, -1.0F);
    default:
      return number;
  }
}

Texel border_of(const Texture& texture) {
  Texel texel{};
  for (unsigned k = 0; k < 4; ++k) {
    texel[k] = texture.gives_float()
                   ? std::bit_cast<std::uint32_t>(texture.border[k])
                   : static_cast<std::uint32_t>(static_cast<std::int64_t>(texture.border[k]));
  }
  return texel;
}

// The texel at a place inside the image.
Texel texel_at(const Texture& texture, const Image& image, std::int64_t x, std::int64_t y, std::int64_t z) {
  if (x == outside || y == outside || z == outside) return border_of(texture);
  const std::uint64_t address = image.base + static_cast<std::uint64_t>(z) * image.slice_pitch +
                                static_cast<std::uint64_t>(y) * image.row_pitch +
                                static_cast<std::uint64_t>(x) * image.texel_bytes();
  const auto* const at = reinterpret_cast<const std::byte*>(
      static_cast<std::uintptr_t>(address));  // NOLINT(performance-no-int-to-ptr): device memory
  const bool to_float = texture.gives_float();
  Texel texel{};
  for (unsigned k = 0; k < image.channels; ++k) {
    const std::uint32_t value = raw(at + std::size_t{k} * channel_bytes(image.channel), image.channel);
    const bool integer = image.channel != Channel::f16 && image.channel != Channel::f32;
    texel[k] = to_float && integer
                   ? std::bit_cast<std::uint32_t>(normalized(value, image.channel, texture.srgb && k < 3))
                   : value;
  }
  return texel;
}

std::int64_t wrapped(Address mode, std::int64_t i, std::int64_t size) {
  switch (mode) {
    case Address::wrap:
      return (i % size + size) % size;
    case Address::mirror: {
      const std::int64_t at = (i % (2 * size) + 2 * size) % (2 * size);
      return at < size ? at : 2 * size - 1 - at;
    }
    case Address::border:
      return i < 0 || i >= size ? outside : i;
    case Address::clamp:
      break;
  }
  return std::clamp<std::int64_t>(i, 0, size - 1);
}

// Wrapping and mirroring need normalised coordinates; without them they are clamping.
Address mode_of(const Texture& texture, unsigned dimension) {
  const Address mode = texture.address[dimension];
  return !texture.normalized && (mode == Address::wrap || mode == Address::mirror) ? Address::clamp : mode;
}

Place place_of(Address mode, float coordinate, bool scale, std::int64_t size, bool linear) {
  double at =
      scale ? static_cast<double>(coordinate) * static_cast<double>(size) : static_cast<double>(coordinate);
  if (!(std::abs(at) < 1e15)) at = std::isnan(at) ? 0 : std::copysign(1e15, at);
  if (!linear) {
    const std::int64_t i = wrapped(mode, static_cast<std::int64_t>(std::floor(at)), size);
    return {i, i, 0};
  }
  // The hardware's weights have 8 bits behind the point.
  const double fixed = std::floor((at - 0.5) * 256 + 0.5);
  const double whole = std::floor(fixed / 256);
  const auto i = static_cast<std::int64_t>(whole);
  return {wrapped(mode, i, size), wrapped(mode, i + 1, size),
          static_cast<float>((fixed - whole * 256) / 256)};
}

Texel mixed(const Texel& a, const Texel& b, float weight) {
  Texel result{};
  for (unsigned k = 0; k < 4; ++k) {
    const auto x = std::bit_cast<float>(a[k]);
    const auto y = std::bit_cast<float>(b[k]);
    result[k] = std::bit_cast<std::uint32_t>(weight == 0 ? x : x * (1 - weight) + y * weight);
  }
  return result;
}

unsigned dimensions(Geometry geometry) {
  switch (geometry) {
    case Geometry::d1:
    case Geometry::a1d:
      return 1;
    case Geometry::d3:
      return 3;
    default:
      return 2;
  }
}

// A direction to a face and the place on it. Source: the programming guide's table for cubemap fetches.
std::uint32_t face_of(const float* direction, float* st) {
  const float x = direction[0];
  const float y = direction[1];
  const float z = direction[2];
  const float ax = std::abs(x);
  const float ay = std::abs(y);
  const float az = std::abs(z);
  std::uint32_t face = 0;
  float s = 0;
  float t = 0;
  float m = 0;
  if (ax >= ay && ax >= az) {
    face = x >= 0 ? 0 : 1;
    m = ax;
    s = x >= 0 ? -z : z;
    t = -y;
  } else if (ay >= az) {
    face = y >= 0 ? 2 : 3;
    m = ay;
    s = x;
    t = y >= 0 ? z : -z;
  } else {
    face = z >= 0 ? 4 : 5;
    m = az;
    s = z >= 0 ? x : -x;
    t = -y;
  }
  st[0] = m != 0 ? (s / m + 1) / 2 : 0.5F;
  st[1] = m != 0 ? (t / m + 1) / 2 : 0.5F;
  return face;
}

// What a fetch is when the geometry is out of the way: up to three coordinates and a slice.
struct Flat {
  float at[3] = {0, 0, 0};
  unsigned dimensions = 1;
  std::int64_t slice = 0;
  bool face = false;  // coordinates of a face: always normalised, always clamped
};

std::int64_t layer_of(const Image& image, std::int64_t layer, std::uint32_t each) {
  return std::clamp<std::int64_t>(layer, 0, std::max<std::int64_t>(image.depth / each, 1) - 1);
}

Flat flattened(const Texture& texture, Geometry geometry, std::int32_t layer, const float* coordinates) {
  Flat flat;
  flat.dimensions = dimensions(geometry);
  const Image& image = texture.levels[0];
  switch (geometry) {
    case Geometry::cube:
    case Geometry::acube: {
      flat.face = true;
      const std::uint32_t face = face_of(coordinates, flat.at);
      flat.slice = (geometry == Geometry::acube ? layer_of(image, layer, 6) * 6 : 0) + face;
      break;
    }
    case Geometry::a1d:
    case Geometry::a2d:
      flat.slice = layer_of(image, layer, 1);
      [[fallthrough]];
    default:
      for (unsigned k = 0; k < flat.dimensions; ++k) flat.at[k] = coordinates[k];
  }
  return flat;
}

std::int64_t size_of(const Image& image, unsigned dimension) {
  return dimension == 0 ? image.width : dimension == 1 ? image.height : image.depth;
}

Texel sample_level(const Texture& texture, const Flat& flat, std::uint32_t level) {
  const Image& image = texture.levels[level];
  const bool linear = texture.linear && texture.gives_float();
  Place places[3];
  for (unsigned k = 0; k < flat.dimensions; ++k) {
    const Address mode = flat.face ? Address::clamp : mode_of(texture, k);
    places[k] = place_of(mode, flat.at[k], texture.normalized || flat.face, size_of(image, k), linear);
  }
  if (flat.dimensions < 3) places[2] = {flat.slice, flat.slice, 0};
  const auto row = [&](std::int64_t y, std::int64_t z) {
    const Texel first = texel_at(texture, image, places[0].first, y, z);
    if (places[0].weight == 0) return first;
    return mixed(first, texel_at(texture, image, places[0].second, y, z), places[0].weight);
  };
  const auto slice = [&](std::int64_t z) {
    const Texel first = row(places[1].first, z);
    if (places[1].weight == 0) return first;
    return mixed(first, row(places[1].second, z), places[1].weight);
  };
  const Texel first = slice(places[2].first);
  if (places[2].weight == 0) return first;
  return mixed(first, slice(places[2].second), places[2].weight);
}

}  // namespace

Texel sample(const Texture& texture, Geometry geometry, std::int32_t layer, const float* coordinates,
             float level) {
  const Flat flat = flattened(texture, geometry, layer, coordinates);
  if (texture.level_count == 1) return sample_level(texture, flat, 0);
  const auto last = static_cast<float>(texture.level_count - 1);
  float detail = std::isnan(level) ? 0 : level + texture.level_bias;
  detail = std::min(std::max(detail, texture.level_min), std::max(texture.level_max, texture.level_min));
  detail = std::min(std::max(detail, 0.0F), last);
  if (!texture.mip_linear || !texture.gives_float()) {
    return sample_level(texture, flat, static_cast<std::uint32_t>(std::floor(detail + 0.5F)));
  }
  const float fixed = std::floor(detail * 256 + 0.5F) / 256;
  const auto fine = static_cast<std::uint32_t>(fixed);
  const float weight = fixed - static_cast<float>(fine);
  const Texel first = sample_level(texture, flat, fine);
  return weight == 0 ? first : mixed(first, sample_level(texture, flat, fine + 1), weight);
}

Texel fetch(const Texture& texture, Geometry geometry, std::int32_t layer, const std::int32_t* coordinates,
            std::int32_t level) {
  const Image& image =
      texture.levels[static_cast<std::size_t>(std::clamp<std::int64_t>(level, 0, texture.level_count - 1))];
  std::int64_t at[3] = {0, 0, 0};
  const unsigned count = dimensions(geometry);
  for (unsigned k = 0; k < count; ++k) {
    at[k] = texture.buffer
                ? (coordinates[k] < 0 || coordinates[k] >= size_of(image, k) ? outside : coordinates[k])
                : wrapped(mode_of(texture, k), coordinates[k], size_of(image, k));
  }
  if (geometry == Geometry::a1d || geometry == Geometry::a2d) at[2] = layer_of(image, layer, 1);
  if (texture.buffer && at[0] == outside) return {};
  return texel_at(texture, image, at[0], at[1], at[2]);
}

Texel gather(const Texture& texture, Geometry geometry, std::int32_t layer, const float* coordinates,
             unsigned component) {
  const Flat flat = flattened(texture, geometry, layer, coordinates);
  const Image& image = texture.levels[0];
  Place places[2];
  for (unsigned k = 0; k < 2; ++k) {
    const Address mode = flat.face ? Address::clamp : mode_of(texture, k);
    places[k] = place_of(mode, flat.at[k], texture.normalized || flat.face, size_of(image, k), true);
  }
  const auto one = [&](std::int64_t x, std::int64_t y) {
    return texel_at(texture, image, x, y, flat.slice)[component & 3];
  };
  return {one(places[0].first, places[1].second), one(places[0].second, places[1].second),
          one(places[0].second, places[1].first), one(places[0].first, places[1].first)};
}

float level_of(const Texture& texture, Geometry geometry, const float* dx, const float* dy) {
  float longest = 0;
  for (const float* const d : {dx, dy}) {
    float length = 0;
    for (unsigned k = 0; k < dimensions(geometry); ++k) {
      const float scale = texture.normalized ? static_cast<float>(size_of(texture.levels[0], k)) : 1.0F;
      length += d[k] * scale * d[k] * scale;
    }
    longest = std::max(longest, length);
  }
  return longest > 0 ? 0.5F * std::log2(longest) : -1e9F;
}

}  // namespace softgpu
