// Arrays by way of the driver API: shapes, copies in and out, levels, textures' and surfaces' checks.
#include <cstring>
#include <numeric>

#include "softgpu/driver/driver_fixture.hpp"

namespace softgpu {
namespace {

class ArrayTest : public DriverTest {
 protected:
  static CUDA_ARRAY3D_DESCRIPTOR shape(std::size_t width, std::size_t height, std::size_t depth,
                                       unsigned flags = 0) {
    CUDA_ARRAY3D_DESCRIPTOR d{};
    d.Width = width;
    d.Height = height;
    d.Depth = depth;
    d.Format = CU_AD_FORMAT_UNSIGNED_INT32;
    d.NumChannels = 1;
    d.Flags = flags;
    return d;
  }
  static CUarray make(const CUDA_ARRAY3D_DESCRIPTOR& d) {
    CUarray array = nullptr;
    EXPECT_EQ(cuArray3DCreate_v2(&array, &d), CUDA_SUCCESS);
    return array;
  }
  static std::size_t free_bytes() {
    std::size_t free = 0;
    std::size_t total = 0;
    EXPECT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    return free;
  }
};

TEST_F(ArrayTest, BoxesGoInAndOut) {
  const CUarray array = make(shape(5, 4, 3));
  std::vector<std::uint32_t> in(60);
  std::iota(in.begin(), in.end(), 1);
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = in.data();
  copy.srcPitch = 20;
  copy.srcHeight = 4;
  copy.dstMemoryType = CU_MEMORYTYPE_ARRAY;
  copy.dstArray = array;
  copy.WidthInBytes = 20;
  copy.Height = 4;
  copy.Depth = 3;
  ASSERT_EQ(cuMemcpy3D_v2(&copy), CUDA_SUCCESS);
  // The middle: two columns, two rows, two slices from (1, 1, 1).
  std::vector<std::uint32_t> out(8);
  CUDA_MEMCPY3D back{};
  back.srcMemoryType = CU_MEMORYTYPE_ARRAY;
  back.srcArray = array;
  back.srcXInBytes = 4;
  back.srcY = back.srcZ = 1;
  back.dstMemoryType = CU_MEMORYTYPE_HOST;
  back.dstHost = out.data();
  back.dstPitch = 8;
  back.dstHeight = 2;
  back.WidthInBytes = 8;
  back.Height = back.Depth = 2;
  ASSERT_EQ(cuMemcpy3D_v2(&back), CUDA_SUCCESS);
  EXPECT_EQ(out, (std::vector<std::uint32_t>{27, 28, 32, 33, 47, 48, 52, 53}));
  back.srcXInBytes = 16;
  EXPECT_EQ(cuMemcpy3D_v2(&back), CUDA_ERROR_INVALID_VALUE) << "past the row's end";
  back.srcXInBytes = 2;
  EXPECT_EQ(cuMemcpy3D_v2(&back), CUDA_ERROR_INVALID_VALUE) << "within a texel";
  EXPECT_EQ(cuArrayDestroy(array), CUDA_SUCCESS);
  back.srcXInBytes = 4;
  EXPECT_EQ(cuMemcpy3D_v2(&back), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(cuArrayDestroy(array), CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(ArrayTest, OneDimensionalCopies) {
  const CUarray a = make(shape(8, 0, 0));
  const CUarray b = make(shape(8, 0, 0));
  const std::uint32_t in[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  std::uint32_t out[8] = {};
  ASSERT_EQ(cuMemcpyHtoA_v2(a, 0, in, 32), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyAtoA_v2(b, 8, a, 0, 24), CUDA_SUCCESS);
  const CUdeviceptr device = words(8);
  ASSERT_EQ(cuMemcpyAtoD_v2(device, b, 8, 16), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoA_v2(a, 16, device, 16), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyAtoH_v2(out, a, 0, 32), CUDA_SUCCESS);
  for (unsigned i = 0; i < 8; ++i) EXPECT_EQ(out[i], i % 4 + 1);
  EXPECT_EQ(cuMemcpyAtoH_v2(out, a, 8, 32), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(ArrayTest, ShapesAreChecked) {
  CUarray array = nullptr;
  const auto create = [&](const CUDA_ARRAY3D_DESCRIPTOR& d) { return cuArray3DCreate_v2(&array, &d); };
  EXPECT_EQ(create(shape(0, 1, 0)), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(create(shape(4, 0, 4)), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(create(shape(4, 8, 6, CUDA_ARRAY3D_CUBEMAP)), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(create(shape(4, 4, 5, CUDA_ARRAY3D_CUBEMAP)), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(create(shape(std::size_t{1} << 20, 4, 0)), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(create(shape(4, 4, 0, CUDA_ARRAY3D_SPARSE)), CUDA_ERROR_NOT_SUPPORTED);
  CUDA_ARRAY3D_DESCRIPTOR d = shape(4, 4, 0);
  d.NumChannels = 3;
  EXPECT_EQ(create(d), CUDA_ERROR_INVALID_VALUE);
  d.NumChannels = 4;
  d.Format = CU_AD_FORMAT_BC1_UNORM;
  EXPECT_EQ(create(d), CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(create(shape(4, 0, 6, CUDA_ARRAY3D_LAYERED)), CUDA_SUCCESS);
  CUDA_ARRAY3D_DESCRIPTOR told{};
  ASSERT_EQ(cuArray3DGetDescriptor_v2(&told, array), CUDA_SUCCESS);
  EXPECT_EQ(told.Width, 4U);
  EXPECT_EQ(told.Height, 0U);
  EXPECT_EQ(told.Depth, 6U);
  EXPECT_EQ(told.Flags, unsigned{CUDA_ARRAY3D_LAYERED});
}

TEST_F(ArrayTest, LevelsHalveAndEndWithTheWhole) {
  const std::size_t before = free_bytes();
  const CUDA_ARRAY3D_DESCRIPTOR d = shape(16, 4, 0);
  CUmipmappedArray whole = nullptr;
  ASSERT_EQ(cuMipmappedArrayCreate(&whole, &d, 100), CUDA_SUCCESS);
  EXPECT_LT(free_bytes(), before);
  CUarray level = nullptr;
  ASSERT_EQ(cuMipmappedArrayGetLevel(&level, whole, 3), CUDA_SUCCESS);
  CUDA_ARRAY3D_DESCRIPTOR told{};
  ASSERT_EQ(cuArray3DGetDescriptor_v2(&told, level), CUDA_SUCCESS);
  EXPECT_EQ(told.Width, 2U);
  EXPECT_EQ(told.Height, 1U);
  EXPECT_EQ(cuMipmappedArrayGetLevel(&level, whole, 5), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuArrayDestroy(level), CUDA_ERROR_INVALID_VALUE);
  ASSERT_EQ(cuMipmappedArrayDestroy(whole), CUDA_SUCCESS);
  EXPECT_EQ(cuArray3DGetDescriptor_v2(&told, level), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(free_bytes(), before);
}

TEST_F(ArrayTest, ObjectsRememberWhatTheyWereMadeOf) {
  const CUarray plain = make(shape(4, 4, 0));
  const CUarray writable = make(shape(4, 4, 0, CUDA_ARRAY3D_SURFACE_LDST));
  CUDA_RESOURCE_DESC resource{};
  resource.resType = CU_RESOURCE_TYPE_ARRAY;
  resource.res.array.hArray = plain;
  CUDA_TEXTURE_DESC desc{};
  desc.filterMode = CU_TR_FILTER_MODE_LINEAR;
  CUtexObject texture = 0;
  EXPECT_EQ(cuTexObjectCreate(&texture, &resource, &desc, nullptr), CUDA_ERROR_INVALID_VALUE)
      << "integers, filtered";
  desc.filterMode = CU_TR_FILTER_MODE_POINT;
  ASSERT_EQ(cuTexObjectCreate(&texture, &resource, &desc, nullptr), CUDA_SUCCESS);
  CUDA_RESOURCE_DESC told{};
  ASSERT_EQ(cuTexObjectGetResourceDesc(&told, texture), CUDA_SUCCESS);
  EXPECT_EQ(told.res.array.hArray, plain);
  CUDA_RESOURCE_VIEW_DESC view{};
  EXPECT_EQ(cuTexObjectGetResourceViewDesc(&view, texture), CUDA_ERROR_INVALID_VALUE);
  CUsurfObject surface = 0;
  EXPECT_EQ(cuSurfObjectCreate(&surface, &resource), CUDA_ERROR_INVALID_VALUE);
  resource.res.array.hArray = writable;
  ASSERT_EQ(cuSurfObjectCreate(&surface, &resource), CUDA_SUCCESS);
  EXPECT_EQ(cuTexObjectDestroy(surface), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuSurfObjectDestroy(surface), CUDA_SUCCESS);
  EXPECT_EQ(cuTexObjectDestroy(texture), CUDA_SUCCESS);
  EXPECT_EQ(cuTexObjectDestroy(texture), CUDA_ERROR_INVALID_VALUE);
  resource.resType = CU_RESOURCE_TYPE_LINEAR;
  resource.res.linear = {words(16) + 4, CU_AD_FORMAT_FLOAT, 1, 32};
  EXPECT_EQ(cuTexObjectCreate(&texture, &resource, &desc, nullptr), CUDA_ERROR_INVALID_VALUE) << "alignment";
  resource.res.linear.devPtr -= 4;
  resource.res.linear.sizeInBytes = 1 << 20;
  EXPECT_EQ(cuTexObjectCreate(&texture, &resource, &desc, nullptr), CUDA_ERROR_INVALID_VALUE) << "too long";
}

}  // namespace
}  // namespace softgpu
