// Texture and surface instructions against plain arithmetic: formats, addressing, filtering, geometries,
// edges.
#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

#include "softgpu/exec/test_device.hpp"
#include "softgpu/texture/texture.hpp"

namespace softgpu::test {
namespace {

using u32 = std::uint32_t;

/// Registers a texture or surface for the life of the object.
class Object {
 public:
  Object(const Texture& texture, bool surface)
      : handle_(TextureTable::get().add(texture, surface)), surface_(surface) {}
  ~Object() { EXPECT_TRUE(TextureTable::get().remove(handle_, surface_)); }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  std::uint64_t handle() const { return handle_; }

 private:
  std::uint64_t handle_;
  bool surface_;
};

template <class T>
Texture image_of(const Array<T>& data, Channel channel, std::uint8_t channels, u32 width, u32 height,
                 u32 depth = 1) {
  Texture t;
  Image& image = t.levels[0];
  image.base = data.address();
  image.channel = channel;
  image.channels = channels;
  image.width = width;
  image.height = height;
  image.depth = depth;
  image.row_pitch = std::uint64_t{width} * image.texel_bytes();
  image.slice_pitch = image.row_pitch * height;
  return t;
}

/// Runs `body` for 32 lanes: %o is the object, %x the lane's four input floats (%f0..%f3), %r0..%r3 their
/// bits; what it leaves in %f4..%f7 comes back, four for each lane.
std::vector<float> run(const std::string& body, std::uint64_t handle, const std::vector<float>& inputs) {
  const std::string text = header() +
                           R"(.visible .entry k(.param .u64 object, .param .u64 in, .param .u64 out)
{ .reg .b32 %i, %r<8>; .reg .f32 %f<8>; .reg .b16 %h<8>; .reg .b64 %o, %x<3>;
  ld.param.u64 %o, [object]; ld.param.u64 %x0, [in]; ld.param.u64 %x2, [out];
  mov.u32 %i, %tid.x; mul.wide.u32 %x1, %i, 16; add.s64 %x0, %x0, %x1; add.s64 %x2, %x2, %x1;
  ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%x0];
  ld.global.v4.b32 {%r0, %r1, %r2, %r3}, [%x0];
  mov.f32 %f4, 0f00000000; mov.f32 %f5, %f4; mov.f32 %f6, %f4; mov.f32 %f7, %f4;
)" + body + R"(
  st.global.v4.f32 [%x2], {%f4, %f5, %f6, %f7}; ret; })";
  const Array<float> in(inputs);
  const Array<float> out(inputs.size());
  Program p(text, 1);
  p.expect_ok("k", {1}, {static_cast<u32>(inputs.size() / 4)},
              Params().add(handle).add(in.address()).add(out.address()));
  return {out.data(), out.data() + out.size()};
}

std::vector<float> lanes(unsigned count, const std::function<void(unsigned, float*)>& fill) {
  std::vector<float> v(std::size_t{count} * 4);
  for (unsigned i = 0; i < count; ++i) fill(i, &v[std::size_t{4} * i]);
  return v;
}
float as_float(u32 bits) {
  return std::bit_cast<float>(bits);
}
u32 as_bits(float f) {
  return std::bit_cast<u32>(f);
}

constexpr const char* kTex1d = "tex.1d.v4.f32.f32 {%f4, %f5, %f6, %f7}, [%o, {%f0}];";
constexpr const char* kTex2d = "tex.2d.v4.f32.f32 {%f4, %f5, %f6, %f7}, [%o, {%f0, %f1}];";

TEST(TextureOps, PointFetchesInEachAddressMode) {
  const Array<float> data(std::vector<float>{10, 11, 12, 13});
  Texture t = image_of(data, Channel::f32, 1, 4, 1);
  t.border = {-1, -1, -1, -1};
  for (const Address mode : {Address::clamp, Address::border, Address::wrap, Address::mirror}) {
    t.address = {mode, mode, mode};
    t.normalized = mode == Address::wrap || mode == Address::mirror;
    const Object object(t, false);
    const float scale = t.normalized ? 0.25F : 1.0F;
    const auto out =
        run(kTex1d, object.handle(),
            lanes(20, [&](unsigned i, float* v) { v[0] = (static_cast<float>(i) - 8 + 0.5F) * scale; }));
    for (int i = 0; i < 20; ++i) {
      const int at = i - 8;
      int want = std::clamp(at, 0, 3);
      if (mode == Address::wrap) want = (at % 4 + 4) % 4;
      if (mode == Address::mirror) want = (at % 8 + 8) % 8 < 4 ? (at % 8 + 8) % 8 : 7 - (at % 8 + 8) % 8;
      const bool edge = mode == Address::border && (at < 0 || at > 3);
      EXPECT_EQ(out[static_cast<std::size_t>(i) * 4], edge ? -1.0F : data[static_cast<std::size_t>(want)])
          << "mode " << static_cast<int>(mode) << " at " << at;
    }
  }
}

TEST(TextureOps, LinearFilterMixesFourTexelsWithEightBitWeights) {
  const Array<float> data(std::vector<float>{0, 256, 512, 768, 1024, 1280});
  Texture t = image_of(data, Channel::f32, 1, 3, 2);
  t.linear = true;
  const Object object(t, false);
  const auto out = run(kTex2d, object.handle(), lanes(32, [](unsigned i, float* v) {
                         v[0] = 0.5F + static_cast<float>(i) / 16;
                         v[1] = 0.5F + static_cast<float>(i % 5) / 4;
                       }));
  for (unsigned i = 0; i < 32; ++i) {
    const double x = std::min(i / 16.0, 2.0);
    const double y = std::min(i % 5 / 4.0, 1.0);
    EXPECT_FLOAT_EQ(out[std::size_t{4} * i], static_cast<float>(256 * x + 768 * y)) << i;
  }
}

TEST(TextureOps, FormatsBecomeFloatsOrIntegers) {
  const Array<std::uint8_t> bytes(std::vector<std::uint8_t>{0, 255, 51, 128, 127, 129, 1, 2});
  Texture t = image_of(bytes, Channel::u8, 4, 2, 1);
  {
    const Object object(t, false);
    const auto out = run(kTex1d, object.handle(), {1.5F, 0, 0, 0});
    EXPECT_FLOAT_EQ(out[0], 127 / 255.0F);
    EXPECT_FLOAT_EQ(out[3], 2 / 255.0F);
  }
  t.as_integer = true;
  {
    const Object object(t, false);
    const auto out =
        run("tex.1d.v4.u32.f32 {%r4, %r5, %r6, %r7}, [%o, {%f0}]; mov.b32 %f4, %r4; mov.b32 %f5, %r5;",
            object.handle(), {0.5F, 0, 0, 0});
    EXPECT_EQ(as_bits(out[0]), 0U);
    EXPECT_EQ(as_bits(out[1]), 255U);
  }
  t = image_of(bytes, Channel::s8, 2, 4, 1);
  {
    const Object object(t, false);
    const auto out = run(kTex1d, object.handle(), {2.5F, 0, 0, 0});
    EXPECT_FLOAT_EQ(out[0], 1.0F);
    EXPECT_FLOAT_EQ(out[1], -1.0F);  // -127; -128 is -1, too
    EXPECT_FLOAT_EQ(out[2], 0);
  }
  const Array<std::uint16_t> halves(std::vector<std::uint16_t>{0x3c00, 0xc000, 0x0001, 0x7bff});
  t = image_of(halves, Channel::f16, 1, 4, 1);
  const Object object(t, false);
  const auto out = run(kTex1d, object.handle(),
                       lanes(4, [](unsigned i, float* v) { v[0] = static_cast<float>(i) + 0.5F; }));
  EXPECT_EQ(out[0], 1.0F);
  EXPECT_EQ(out[4], -2.0F);
  EXPECT_EQ(out[8], 0x1p-24F);
  EXPECT_EQ(out[12], 65504.0F);
}

TEST(TextureOps, BuffersReadZeroOutside) {
  const Array<u32> data(std::vector<u32>{7, 8, 9});
  Texture t = image_of(data, Channel::u32, 1, 3, 1);
  t.buffer = true;
  const Object object(t, false);
  const auto out = run("tex.1d.v4.u32.s32 {%r4, %r5, %r6, %r7}, [%o, {%r0}]; mov.b32 %f4, %r4;",
                       object.handle(), lanes(5, [](unsigned i, float* v) { v[0] = as_float(i - 1); }));
  const u32 want[] = {0, 7, 8, 9, 0};
  for (unsigned i = 0; i < 5; ++i) EXPECT_EQ(as_bits(out[std::size_t{4} * i]), want[i]);
}

TEST(TextureOps, LayersVolumesAndCubes) {
  std::vector<float> numbers(std::size_t{4} * 4 * 12);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
  const Array<float> data(numbers);
  Texture t = image_of(data, Channel::f32, 1, 4, 4, 12);
  const auto inputs = lanes(24, [](unsigned i, float* v) {
    v[0] = static_cast<float>(i % 4) + 0.5F;
    v[1] = static_cast<float>(i / 4 % 4) + 0.5F;
    v[2] = static_cast<float>(i % 12) + 0.5F;
    v[3] = as_float(i % 12);
  });
  const auto index = [](unsigned i) { return static_cast<float>(i % 12 * 16 + i / 4 % 4 * 4 + i % 4); };
  {
    const Object object(t, false);
    auto out =
        run("tex.3d.v4.f32.f32 {%f4, %f5, %f6, %f7}, [%o, {%f0, %f1, %f2, %f2}];", object.handle(), inputs);
    for (unsigned i = 0; i < 24; ++i) EXPECT_EQ(out[std::size_t{4} * i], index(i));
    out =
        run("tex.a2d.v4.f32.f32 {%f4, %f5, %f6, %f7}, [%o, {%r3, %f0, %f1, %f1}];", object.handle(), inputs);
    for (unsigned i = 0; i < 24; ++i) EXPECT_EQ(out[std::size_t{4} * i], index(i));
  }
  t.normalized = true;
  const Object object(t, false);
  // The middle of each face of each of the two cubes lies between four texels: a little off it is texel (2,
  // 2).
  constexpr float directions[6][3] = {{1, 0, 0}, {-1, 0, 0}, {0, 1, 0}, {0, -1, 0}, {0, 0, 1}, {0, 0, -1}};
  constexpr float off[6][3] = {{0, -0.1F, -0.1F}, {0, -0.1F, 0.1F}, {0.1F, 0, 0.1F},
                               {0.1F, 0, -0.1F},  {0.1F, -0.1F, 0}, {-0.1F, -0.1F, 0}};
  const auto out = run("tex.acube.v4.f32.f32 {%f4, %f5, %f6, %f7}, [%o, {%r3, %f0, %f1, %f2}];",
                       object.handle(), lanes(12, [&](unsigned i, float* v) {
                         for (unsigned k = 0; k < 3; ++k) v[k] = 3 * (directions[i % 6][k] + off[i % 6][k]);
                         v[3] = as_float(i / 6);
                       }));
  for (unsigned i = 0; i < 12; ++i) EXPECT_EQ(out[std::size_t{4} * i], static_cast<float>(i * 16 + 10)) << i;
}

TEST(TextureOps, LevelsOfDetailAreChosenAndMixed) {
  const Array<float> fine(std::vector<float>(16, 100.0F));
  const Array<float> coarse(std::vector<float>(4, 200.0F));
  Texture t = image_of(fine, Channel::f32, 1, 4, 4);
  t.levels[1] = image_of(coarse, Channel::f32, 1, 2, 2).levels[0];
  t.level_count = 2;
  t.level_max = 10;
  t.normalized = true;
  constexpr const char* level = "tex.level.2d.v4.f32.f32 {%f4, %f5, %f6, %f7}, [%o, {%f0, %f1}], %f2;";
  const auto inputs = lanes(5, [](unsigned i, float* v) {
    v[0] = v[1] = 0.4F;
    v[2] = static_cast<float>(i) / 4;
  });
  {
    const Object object(t, false);
    const auto out = run(level, object.handle(), inputs);
    const float want[] = {100, 100, 200, 200, 200};
    for (unsigned i = 0; i < 5; ++i) EXPECT_EQ(out[std::size_t{4} * i], want[i]);
  }
  t.mip_linear = true;
  const Object object(t, false);
  auto out = run(level, object.handle(), inputs);
  for (unsigned i = 0; i < 5; ++i) EXPECT_EQ(out[std::size_t{4} * i], 100.0F + 25.0F * static_cast<float>(i));
  // Two texels a step are one level down.
  out = run("tex.grad.2d.v4.f32.f32 {%f4, %f5, %f6, %f7}, [%o, {%f0, %f1}], {%f2, %f3}, {%f3, %f3};",
            object.handle(), {0.4F, 0.4F, 0.5F, 0.0F});
  EXPECT_EQ(out[0], 200.0F);
}

TEST(TextureOps, GatherTakesFourTexelsCounterclockwise) {
  const Array<float> data(std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
  const Texture t = image_of(data, Channel::f32, 2, 4, 2);
  const Object object(t, false);
  const auto out =
      run("tld4.g.2d.v4.f32.f32 {%f4, %f5, %f6, %f7}, [%o, {%f0, %f1}];", object.handle(), {2, 1, 0, 0});
  EXPECT_EQ(out, (std::vector<float>{11, 13, 5, 3}));
}

TEST(TextureOps, SurfacesAreReadAndWrittenByBytes) {
  const Array<u32> data(8);
  const Texture t = image_of(data, Channel::u32, 1, 4, 2);
  const Object object(t, true);
  // The lane's column in bytes and row; writes, then reads back what the neighbour wrote.
  run("sust.b.2d.b32.trap [%o, {%r0, %r1}], {%r2};", object.handle(), lanes(8, [](unsigned i, float* v) {
        v[0] = as_float(i % 4 * 4);
        v[1] = as_float(i / 4);
        v[2] = as_float(100 + i);
      }));
  for (u32 i = 0; i < 8; ++i) EXPECT_EQ(data[i], 100 + i);
  auto out = run("suld.b.2d.b32.zero {%r4}, [%o, {%r0, %r1}]; mov.b32 %f4, %r4;", object.handle(),
                 lanes(4, [](unsigned i, float* v) {
                   v[0] = as_float(i * 8);
                   v[1] = as_float(1);
                 }));
  EXPECT_EQ(as_bits(out[0]), 104U);
  EXPECT_EQ(as_bits(out[4]), 106U);
  EXPECT_EQ(as_bits(out[8]), 0U);
  out = run("suld.b.2d.b32.clamp {%r4}, [%o, {%r0, %r1}]; mov.b32 %f4, %r4;", object.handle(),
            {as_float(400), as_float(7), 0, 0});
  EXPECT_EQ(as_bits(out[0]), 107U);
  out = run("suld.b.2d.v2.b16.trap {%h4, %h5}, [%o, {%r0, %r1}]; mov.b32 %f4, {%h4, %h5};", object.handle(),
            {as_float(4), as_float(0), 0, 0});
  EXPECT_EQ(as_bits(out[0]), 101U);
}

TEST(TextureOps, QueriesTellSizes) {
  const Array<float> data(24);
  const Texture t = image_of(data, Channel::f32, 1, 6, 4);
  const Object object(t, false);
  const auto out =
      run("txq.width.b32 %r4, [%o]; txq.height.b32 %r5, [%o]; mov.b32 %f4, %r4; mov.b32 %f5, %r5;",
          object.handle(), {0, 0, 0, 0});
  EXPECT_EQ(as_bits(out[0]), 6U);
  EXPECT_EQ(as_bits(out[1]), 4U);
}

TEST(TextureOps, WrongNumbersAndCoordinatesFault) {
  const Array<u32> data(8);
  const Texture t = image_of(data, Channel::u32, 1, 4, 2);
  const Object object(t, true);
  const std::string text = header() + R"(.visible .entry tex(.param .u64 o)
{ .reg .f32 %f<5>; .reg .b64 %o; ld.param.u64 %o, [o]; mov.f32 %f0, 0f00000000;
  tex.1d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%o, {%f0}]; ret; }
.visible .entry out(.param .u64 o)
{ .reg .b32 %r<3>; .reg .b64 %o; ld.param.u64 %o, [o]; mov.u32 %r0, 16; mov.u32 %r1, 0;
  suld.b.2d.b32.trap {%r2}, [%o, {%r0, %r1}]; ret; }
.visible .entry odd(.param .u64 o)
{ .reg .b32 %r<3>; .reg .b64 %o; ld.param.u64 %o, [o]; mov.u32 %r0, 2; mov.u32 %r1, 0;
  suld.b.2d.b32.trap {%r2}, [%o, {%r0, %r1}]; ret; })";
  Program p(text, 1);
  EXPECT_EQ(p.run("tex", {1}, {1}, Params().add(object.handle())).fault,
            Fault::illegal_address);  // a surface's
  EXPECT_EQ(p.run("tex", {1}, {1}, Params().add(std::uint64_t{0})).fault, Fault::illegal_address);
  EXPECT_EQ(p.run("tex", {1}, {1}, Params().add(~std::uint64_t{0})).fault, Fault::illegal_address);
  EXPECT_EQ(p.run("out", {1}, {1}, Params().add(object.handle())).fault, Fault::illegal_address);
  EXPECT_EQ(p.run("odd", {1}, {1}, Params().add(object.handle())).fault, Fault::misaligned_address);
}

}  // namespace
}  // namespace softgpu::test
