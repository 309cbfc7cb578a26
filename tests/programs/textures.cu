// Texture objects against plain arithmetic: point and linear filtering, address modes, normalised
// coordinates, formats, linear and pitched memory, volumes, layers, cubemaps, levels of detail, gathers.
#include <algorithm>

#include "check.hpp"

namespace {

constexpr int kWidth = 37;
constexpr int kHeight = 21;
constexpr int kCount = 2048;

enum Fetch { k1D, k1DFetch, k2D, k3D, k2DLayered, kCube, kCubeLayered, kLod, kGather };

__global__ void fetch(cudaTextureObject_t texture, Fetch how, const float4* at, float4* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  const float4 p = at[i];
  float4 v = make_float4(0, 0, 0, 0);
  switch (how) {
    case k1D:
      v.x = tex1D<float>(texture, p.x);
      break;
    case k1DFetch:
      v.x = tex1Dfetch<float>(texture, static_cast<int>(p.x));
      break;
    case k2D:
      v.x = tex2D<float>(texture, p.x, p.y);
      break;
    case k3D:
      v.x = tex3D<float>(texture, p.x, p.y, p.z);
      break;
    case k2DLayered:
      v.x = tex2DLayered<float>(texture, p.x, p.y, static_cast<int>(p.w));
      break;
    case kCube:
      v.x = texCubemap<float>(texture, p.x, p.y, p.z);
      break;
    case kCubeLayered:
      v.x = texCubemapLayered<float>(texture, p.x, p.y, p.z, static_cast<int>(p.w));
      break;
    case kLod:
      v.x = tex2DLod<float>(texture, p.x, p.y, p.w);
      break;
    case kGather:
      v = tex2Dgather<float4>(texture, p.x, p.y, 0);
      break;
  }
  out[i] = v;
}

__global__ void fetch_bytes(cudaTextureObject_t normalized, cudaTextureObject_t plain, float4* as_float,
                            uchar4* as_bytes) {
  const int x = static_cast<int>(threadIdx.x);
  as_float[x] = tex2D<float4>(normalized, x + 0.5F, 0.5F);
  as_bytes[x] = tex2D<uchar4>(plain, x + 0.5F, 0.5F);
}

float4* points = nullptr;
float4* results = nullptr;

std::vector<float4> run(cudaTextureObject_t texture, Fetch how, const std::vector<float4>& at) {
  const int count = static_cast<int>(at.size());
  CUDA_OK(cudaMemcpy(points, at.data(), at.size() * sizeof(float4), cudaMemcpyHostToDevice));
  fetch<<<(count + 127) / 128, 128>>>(texture, how, points, results, count);
  CUDA_OK(cudaGetLastError());
  std::vector<float4> out(at.size());
  CUDA_OK(cudaMemcpy(out.data(), results, at.size() * sizeof(float4), cudaMemcpyDeviceToHost));
  return out;
}

cudaTextureObject_t make(const cudaResourceDesc& resource, cudaTextureAddressMode mode, bool linear,
                         bool normalized, cudaTextureReadMode read = cudaReadModeElementType) {
  cudaTextureDesc desc{};
  for (auto& m : desc.addressMode) m = mode;
  desc.filterMode = linear ? cudaFilterModeLinear : cudaFilterModePoint;
  desc.mipmapFilterMode = desc.filterMode;
  desc.readMode = read;
  desc.normalizedCoords = normalized ? 1 : 0;
  desc.borderColor[0] = -7;
  desc.maxMipmapLevelClamp = 16;
  cudaTextureObject_t texture = 0;
  CUDA_OK(cudaCreateTextureObject(&texture, &resource, &desc, nullptr));
  return texture;
}

cudaResourceDesc of_array(cudaArray_t array) {
  cudaResourceDesc resource{};
  resource.resType = cudaResourceTypeArray;
  resource.res.array.array = array;
  return resource;
}

int address(cudaTextureAddressMode mode, int i, int n) {
  switch (mode) {
    case cudaAddressModeWrap:
      return (i % n + n) % n;
    case cudaAddressModeMirror: {
      const int at = (i % (2 * n) + 2 * n) % (2 * n);
      return at < n ? at : 2 * n - 1 - at;
    }
    case cudaAddressModeBorder:
      return i < 0 || i >= n ? -1 : i;
    default:
      return std::clamp(i, 0, n - 1);
  }
}

// A 2D image and what a fetch from it should give, in double precision.
struct Reference {
  std::vector<float> texels;
  int width, height;
  double at(cudaTextureAddressMode mode, int x, int y) const {
    const int i = address(mode, x, width);
    const int j = address(mode, y, height);
    return i < 0 || j < 0 ? -7.0 : texels[static_cast<size_t>(j) * width + i];
  }
  double point(cudaTextureAddressMode mode, double u, double v) const {
    return at(mode, static_cast<int>(std::floor(u)), static_cast<int>(std::floor(v)));
  }
  double linear(cudaTextureAddressMode mode, double u, double v) const {
    const double x = std::floor(u - 0.5);
    const double y = std::floor(v - 0.5);
    const double a = u - 0.5 - x;
    const double b = v - 0.5 - y;
    const int i = static_cast<int>(x);
    const int j = static_cast<int>(y);
    return (1 - a) * (1 - b) * at(mode, i, j) + a * (1 - b) * at(mode, i + 1, j) +
           (1 - a) * b * at(mode, i, j + 1) + a * b * at(mode, i + 1, j + 1);
  }
};

void check_2d() {
  check::Random random(11);
  Reference reference{std::vector<float>(static_cast<size_t>(kWidth) * kHeight), kWidth, kHeight};
  for (auto& t : reference.texels) t = random.unit();
  const auto channel = cudaCreateChannelDesc<float>();
  cudaArray_t array = nullptr;
  CUDA_OK(cudaMallocArray(&array, &channel, kWidth, kHeight, cudaArrayTextureGather));
  CUDA_OK(cudaMemcpy2DToArray(array, 0, 0, reference.texels.data(), kWidth * 4, kWidth * 4, kHeight,
                              cudaMemcpyHostToDevice));
  cudaChannelFormatDesc told{};
  cudaExtent extent{};
  unsigned flags = 0;
  CUDA_OK(cudaArrayGetInfo(&told, &extent, &flags, array));
  EXPECT(told.x == 32 && extent.width == kWidth && extent.height == kHeight, "cudaArrayGetInfo: %d %zu x %zu",
         told.x, extent.width, extent.height);

  for (const bool normalized : {false, true}) {
    for (const bool linear : {false, true}) {
      for (const auto mode :
           {cudaAddressModeClamp, cudaAddressModeBorder, cudaAddressModeWrap, cudaAddressModeMirror}) {
        if (!normalized && (mode == cudaAddressModeWrap || mode == cudaAddressModeMirror)) continue;
        const cudaTextureObject_t texture = make(of_array(array), mode, linear, normalized);
        std::vector<float4> at(kCount);
        std::vector<double> u(kCount);
        std::vector<double> v(kCount);
        for (int i = 0; i < kCount; ++i) {
          // Off the borders between texels, where single precision may decide either way.
          const int whole_x = static_cast<int>(random.next() % (3 * kWidth)) - kWidth;
          const int whole_y = static_cast<int>(random.next() % (3 * kHeight)) - kHeight;
          u[i] = whole_x + 0.05 + 0.9 * random.unit();
          v[i] = whole_y + 0.05 + 0.9 * random.unit();
          at[i] = make_float4(static_cast<float>(normalized ? u[i] / kWidth : u[i]),
                              static_cast<float>(normalized ? v[i] / kHeight : v[i]), 0, 0);
        }
        const auto out = run(texture, k2D, at);
        for (int i = 0; i < kCount; ++i) {
          const double wanted =
              linear ? reference.linear(mode, u[i], v[i]) : reference.point(mode, u[i], v[i]);
          // Weights have 8 bits of fraction, and borders are 7 away.
          const double slack = linear ? (mode == cudaAddressModeBorder ? 0.07 : 0.01) : 0.0;
          EXPECT(std::abs(out[i].x - wanted) <= slack,
                 "mode %d linear %d normalized %d at (%g, %g): %g, wanted %g", mode, linear, normalized, u[i],
                 v[i], out[i].x, wanted);
        }
        CUDA_OK(cudaDestroyTextureObject(texture));
      }
    }
  }
  // A gather around (4, 3): lower left, lower right, upper right, upper left.
  const cudaTextureObject_t texture = make(of_array(array), cudaAddressModeClamp, false, false);
  const float4 four = run(texture, kGather, {make_float4(4, 3, 0, 0)})[0];
  const auto texel = [&](int x, int y) { return reference.texels[static_cast<size_t>(y) * kWidth + x]; };
  EXPECT(four.x == texel(3, 3) && four.y == texel(4, 3) && four.z == texel(4, 2) && four.w == texel(3, 2),
         "gather: %g %g %g %g", four.x, four.y, four.z, four.w);
  cudaResourceDesc back{};
  CUDA_OK(cudaGetTextureObjectResourceDesc(&back, texture));
  EXPECT(back.resType == cudaResourceTypeArray && back.res.array.array == array,
         "the texture names another array");
  cudaTextureDesc desc{};
  CUDA_OK(cudaGetTextureObjectTextureDesc(&desc, texture));
  EXPECT(desc.addressMode[0] == cudaAddressModeClamp && desc.readMode == cudaReadModeElementType,
         "texture description");
  CUDA_OK(cudaDestroyTextureObject(texture));

  // The same image in pitched memory, and a row of it in linear memory.
  float* pitched = nullptr;
  size_t pitch = 0;
  CUDA_OK(cudaMallocPitch(&pitched, &pitch, kWidth * 4, kHeight));
  CUDA_OK(cudaMemcpy2DFromArray(pitched, pitch, array, 0, 0, kWidth * 4, kHeight, cudaMemcpyDeviceToDevice));
  cudaResourceDesc resource{};
  resource.resType = cudaResourceTypePitch2D;
  resource.res.pitch2D.devPtr = pitched;
  resource.res.pitch2D.desc = channel;
  resource.res.pitch2D.width = kWidth;
  resource.res.pitch2D.height = kHeight;
  resource.res.pitch2D.pitchInBytes = pitch;
  const cudaTextureObject_t flat = make(resource, cudaAddressModeClamp, false, false);
  resource = {};
  resource.resType = cudaResourceTypeLinear;
  resource.res.linear.devPtr = pitched;
  resource.res.linear.desc = channel;
  resource.res.linear.sizeInBytes = kWidth * 4;
  const cudaTextureObject_t line = make(resource, cudaAddressModeClamp, false, false);
  std::vector<float4> at(kWidth);
  for (int i = 0; i < kWidth; ++i) at[i] = make_float4(i + 0.5F, i % kHeight + 0.5F, 0, 0);
  auto out = run(flat, k2D, at);
  for (int i = 0; i < kWidth; ++i) EXPECT(out[i].x == texel(i, i % kHeight), "pitched memory at %d", i);
  for (int i = 0; i < kWidth; ++i) at[i].x = static_cast<float>(i);
  at.push_back(make_float4(kWidth, 0, 0, 0));
  out = run(line, k1DFetch, at);
  for (int i = 0; i < kWidth; ++i) EXPECT(out[i].x == texel(i, 0), "linear memory at %d", i);
  EXPECT(out[kWidth].x == 0, "outside of linear memory: %g", out[kWidth].x);
  CUDA_OK(cudaDestroyTextureObject(flat));
  CUDA_OK(cudaDestroyTextureObject(line));
  CUDA_OK(cudaFree(pitched));
  CUDA_OK(cudaFreeArray(array));
}

void check_formats() {
  const auto channel = cudaCreateChannelDesc<uchar4>();
  cudaArray_t array = nullptr;
  CUDA_OK(cudaMallocArray(&array, &channel, 64, 1));
  std::vector<uchar4> texels(64);
  for (int i = 0; i < 64; ++i)
    texels[i] = make_uchar4(static_cast<unsigned char>(4 * i), static_cast<unsigned char>(255 - i), 255, 0);
  CUDA_OK(cudaMemcpy2DToArray(array, 0, 0, texels.data(), 256, 256, 1, cudaMemcpyHostToDevice));
  const auto normalized =
      make(of_array(array), cudaAddressModeClamp, false, false, cudaReadModeNormalizedFloat);
  const auto plain = make(of_array(array), cudaAddressModeClamp, false, false);
  auto* bytes = reinterpret_cast<uchar4*>(points);
  fetch_bytes<<<1, 64>>>(normalized, plain, results, bytes);
  std::vector<float4> floats(64);
  std::vector<uchar4> back(64);
  CUDA_OK(cudaMemcpy(floats.data(), results, 64 * sizeof(float4), cudaMemcpyDeviceToHost));
  CUDA_OK(cudaMemcpy(back.data(), bytes, 256, cudaMemcpyDeviceToHost));
  EXPECT(std::memcmp(back.data(), texels.data(), 256) == 0, "bytes differ");
  for (int i = 0; i < 64; ++i) {
    EXPECT(check::near(floats[i].x, 4 * i / 255.0, 1e-6) &&
               check::near(floats[i].y, (255 - i) / 255.0, 1e-6) && floats[i].z == 1.0F &&
               floats[i].w == 0.0F,
           "normalised: %g %g %g %g at %d", floats[i].x, floats[i].y, floats[i].z, floats[i].w, i);
  }
  CUDA_OK(cudaDestroyTextureObject(normalized));
  CUDA_OK(cudaDestroyTextureObject(plain));
  CUDA_OK(cudaFreeArray(array));
}

// Volumes, layers and cubes share one set of numbers: slice * 64 + row * 8 + column.
void check_slices() {
  constexpr int kSize = 8;
  constexpr int kDepth = 12;
  std::vector<float> numbers(static_cast<size_t>(kSize) * kSize * kDepth);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
  const auto channel = cudaCreateChannelDesc<float>();
  const auto filled = [&](unsigned flags, int depth) {
    cudaArray_t array = nullptr;
    const cudaExtent extent = make_cudaExtent(kSize, kSize, static_cast<size_t>(depth));
    CUDA_OK(cudaMalloc3DArray(&array, &channel, extent, flags));
    cudaMemcpy3DParms copy{};
    copy.srcPtr = make_cudaPitchedPtr(numbers.data(), kSize * 4, kSize, kSize);
    copy.dstArray = array;
    copy.extent = extent;
    copy.kind = cudaMemcpyHostToDevice;
    CUDA_OK(cudaMemcpy3D(&copy));
    // And back, through the same call.
    std::vector<float> back(static_cast<size_t>(kSize) * kSize * depth);
    cudaMemcpy3DParms reverse{};
    reverse.srcArray = array;
    reverse.dstPtr = make_cudaPitchedPtr(back.data(), kSize * 4, kSize, kSize);
    reverse.extent = extent;
    reverse.kind = cudaMemcpyDeviceToHost;
    CUDA_OK(cudaMemcpy3D(&reverse));
    EXPECT(std::memcmp(back.data(), numbers.data(), back.size() * 4) == 0, "a 3D array differs");
    return array;
  };
  std::vector<float4> at(512);
  check::Random random(5);
  for (auto& p : at) {
    p = make_float4(static_cast<float>(random.next() % kSize) + 0.5F,
                    static_cast<float>(random.next() % kSize) + 0.5F,
                    static_cast<float>(random.next() % kDepth) + 0.5F, 0);
    p.w = p.z - 0.5F;
  }
  const auto wanted = [](const float4& p) { return (p.z - 0.5F) * 64 + (p.y - 0.5F) * 8 + p.x - 0.5F; };
  for (const bool layered : {false, true}) {
    cudaArray_t array = filled(layered ? cudaArrayLayered : cudaArrayDefault, kDepth);
    for (const bool linear : {false, true}) {
      const auto texture = make(of_array(array), cudaAddressModeClamp, linear, false);
      const auto out = run(texture, layered ? k2DLayered : k3D, at);
      for (size_t i = 0; i < at.size(); ++i)
        EXPECT(out[i].x == wanted(at[i]), "layered %d: %g, wanted %g", layered, out[i].x, wanted(at[i]));
      CUDA_OK(cudaDestroyTextureObject(texture));
    }
    if (!layered) {
      // Half way between two slices.
      const auto texture = make(of_array(array), cudaAddressModeClamp, true, false);
      const float middle = run(texture, k3D, {make_float4(2.5F, 3.5F, 5.0F, 0)})[0].x;
      EXPECT(middle == 4.5F * 64 + 3 * 8 + 2, "between slices: %g", middle);
      CUDA_OK(cudaDestroyTextureObject(texture));
    }
    CUDA_OK(cudaFreeArray(array));
  }
  // The middle of texel (5, 2) of each face, by its direction: s and t run from -1 to 1.
  const float s = (5.5F / 8) * 2 - 1;
  const float t = (2.5F / 8) * 2 - 1;
  const float4 directions[6] = {make_float4(1, -t, -s, 0), make_float4(-1, -t, s, 0),
                                make_float4(s, 1, t, 0),   make_float4(s, -1, -t, 0),
                                make_float4(s, -t, 1, 0),  make_float4(-s, -t, -1, 0)};
  for (const bool layered : {false, true}) {
    cudaArray_t array = filled(cudaArrayCubemap | (layered ? cudaArrayLayered : 0U), layered ? 12 : 6);
    const auto texture = make(of_array(array), cudaAddressModeClamp, false, true);
    for (int layer = 0; layer < (layered ? 2 : 1); ++layer) {
      std::vector<float4> rays(directions, directions + 6);
      for (auto& r : rays) r.w = static_cast<float>(layer);
      const auto out = run(texture, layered ? kCubeLayered : kCube, rays);
      for (int face = 0; face < 6; ++face) {
        const float number = static_cast<float>((layer * 6 + face) * 64 + 2 * 8 + 5);
        EXPECT(out[static_cast<size_t>(face)].x == number, "face %d of cube %d: %g, wanted %g", face, layer,
               out[static_cast<size_t>(face)].x, number);
      }
    }
    CUDA_OK(cudaDestroyTextureObject(texture));
    CUDA_OK(cudaFreeArray(array));
  }
}

void check_levels() {
  const auto channel = cudaCreateChannelDesc<float>();
  cudaMipmappedArray_t mipmap = nullptr;
  CUDA_OK(cudaMallocMipmappedArray(&mipmap, &channel, make_cudaExtent(16, 16, 0), 4));
  for (unsigned level = 0; level < 4; ++level) {
    cudaArray_t array = nullptr;
    CUDA_OK(cudaGetMipmappedArrayLevel(&array, mipmap, level));
    const size_t size = 16U >> level;
    const std::vector<float> texels(size * size, 100.0F * static_cast<float>(level));
    CUDA_OK(
        cudaMemcpy2DToArray(array, 0, 0, texels.data(), size * 4, size * 4, size, cudaMemcpyHostToDevice));
  }
  cudaResourceDesc resource{};
  resource.resType = cudaResourceTypeMipmappedArray;
  resource.res.mipmap.mipmap = mipmap;
  const auto point = make(resource, cudaAddressModeClamp, false, true);
  const auto linear = make(resource, cudaAddressModeClamp, true, true);
  std::vector<float4> at;
  for (int i = 0; i <= 16; ++i) at.push_back(make_float4(0.3F, 0.6F, 0, static_cast<float>(i) / 4 - 0.5F));
  const auto nearest = run(point, kLod, at);
  const auto mixed = run(linear, kLod, at);
  for (size_t i = 0; i < at.size(); ++i) {
    const float lod = std::clamp(at[i].w, 0.0F, 3.0F);
    EXPECT(std::abs(mixed[i].x - 100 * lod) < 1, "level %g: %g", lod, mixed[i].x);
    if (lod - std::floor(lod) == 0.5F) continue;
    EXPECT(nearest[i].x == 100 * std::floor(lod + 0.5F), "nearest level of %g: %g", lod, nearest[i].x);
  }
  CUDA_OK(cudaDestroyTextureObject(point));
  CUDA_OK(cudaDestroyTextureObject(linear));
  CUDA_OK(cudaFreeMipmappedArray(mipmap));
}

}  // namespace

int main() {
  CUDA_OK(cudaMalloc(&points, kCount * sizeof(float4)));
  CUDA_OK(cudaMalloc(&results, kCount * sizeof(float4)));
  check_2d();
  check_formats();
  check_slices();
  check_levels();
  CUDA_OK(cudaDeviceSynchronize());
  return check::done("textures");
}
