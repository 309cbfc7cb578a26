// What texture and surface objects are to the software GPU: images in device memory, and how a coordinate
// becomes a value. Filtering, addressing and formats follow the CUDA C++ Programming Guide, "Texture
// Fetching": weights of linear filtering have 8 bits of fraction.
//
// Knows nothing of the CUDA API and nothing of PTX. Never checks that an image's memory is still there: an
// access to memory that was freed faults like any other.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace softgpu {

/// What a channel of a texel is.
enum class Channel : std::uint8_t { u8, u16, u32, s8, s16, s32, f16, f32 };
/// Bytes of a channel.
constexpr std::uint32_t channel_bytes(Channel channel) {
  switch (channel) {
    case Channel::u8:
    case Channel::s8:
      return 1;
    case Channel::u16:
    case Channel::s16:
    case Channel::f16:
      return 2;
    default:
      return 4;
  }
}

/// Rows of texels in device memory. Depth counts slices of a 3D image, layers of a layered one, faces of a
/// cubemap (six for each layer).
struct Image {
  std::uint64_t base = 0;
  std::uint64_t row_pitch = 0, slice_pitch = 0;  ///< bytes
  std::uint32_t width = 1, height = 1, depth = 1;
  Channel channel = Channel::f32;
  std::uint8_t channels = 1;  ///< 1, 2 or 4
  std::uint32_t texel_bytes() const { return channel_bytes(channel) * channels; }
};

enum class Address : std::uint8_t { wrap, clamp, mirror, border };

/// The dimensions and the kind of a fetch, as the instruction has them.
enum class Geometry : std::uint8_t { d1, d2, d3, a1d, a2d, cube, acube };

inline constexpr unsigned max_mip_levels = 17;

struct Texture {
  std::array<Image, max_mip_levels> levels{};
  std::uint32_t level_count = 1;
  std::array<Address, 3> address{Address::clamp, Address::clamp, Address::clamp};
  bool linear = false;      ///< filter between texels
  bool mip_linear = false;  ///< filter between levels
  bool normalized = false;  ///< coordinates run from 0 to 1
  bool as_integer = false;  ///< 8- and 16-bit integers are read as such, not as [0,1] or [-1,1]
  bool srgb = false;        ///< 8-bit channels but the fourth are sRGB
  bool buffer = false;      ///< a run of texels without rows: integer coordinates outside read zero
  float level_bias = 0, level_min = 0, level_max = 0;
  std::array<float, 4> border{};
  /// True when a fetch gives floating-point values, else integers.
  bool gives_float() const {
    const Channel c = levels[0].channel;
    return c == Channel::f16 || c == Channel::f32 || (!as_integer && c != Channel::u32 && c != Channel::s32);
  }
};

/// Four channels: IEEE images or integers, as Texture::gives_float() says.
using Texel = std::array<std::uint32_t, 4>;

/// A fetch by floating-point coordinates (x, y, z of the geometry; cubemaps: a direction) at a level of
/// detail.
Texel sample(const Texture& texture, Geometry geometry, std::int32_t layer, const float* coordinates,
             float level);
/// A fetch by integer coordinates, unfiltered.
Texel fetch(const Texture& texture, Geometry geometry, std::int32_t layer, const std::int32_t* coordinates,
            std::int32_t level);
/// One channel of the four texels around a point: (x0, y1), (x1, y1), (x1, y0), (x0, y0).
Texel gather(const Texture& texture, Geometry geometry, std::int32_t layer, const float* coordinates,
             unsigned component);
/// The level of detail for derivatives of the coordinates.
float level_of(const Texture& texture, Geometry geometry, const float* dx, const float* dy);

/// All texture and surface objects of this process, by the numbers that kernels get. Thread-safe; lookups
/// take no lock. Entries are reused, never freed: a kernel that goes on with a destroyed object reads
/// another's description at worst.
class TextureTable {
 public:
  static TextureTable& get();

  /// The object's number, 0 when there are too many.
  std::uint64_t add(const Texture& texture, bool surface);
  /// False for a number that names no such object.
  bool remove(std::uint64_t handle, bool surface);
  /// nullptr for a number that names no such object.
  const Texture* find(std::uint64_t handle, bool surface) const;

 private:
  struct Entry {
    std::atomic<std::uint64_t> handle{0};
    std::uint32_t generation = 0;
    bool surface = false;
    Texture texture;
  };
  static constexpr std::uint32_t chunk_entries = 64;
  static constexpr std::uint32_t chunks = 16384;  // a million objects, as many as a real device has

  Entry* entry(std::uint64_t handle) const;

  mutable std::mutex mutex_;
  std::vector<std::atomic<Entry*>> chunks_{chunks};
  std::vector<std::unique_ptr<Entry[]>> owned_;
  std::vector<std::uint32_t> free_;
  std::uint32_t next_ = 0;
};

}  // namespace softgpu
