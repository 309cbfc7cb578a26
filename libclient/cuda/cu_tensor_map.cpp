// Tensor maps: the device's driver encodes them. The encoding depends on nothing but the arguments, so each
// is asked for once.
#include <cstring>
#include <map>
#include <string>

#include "libclient/cuda/stub_runtime.hpp"
#include "protocol/tensor_map.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

// Maps that were made, by the bytes of the request. Programs make them anew at each launch.
class Encoded {
 public:
  bool find(const std::string& key, CUtensorMap& map) {
    const std::lock_guard lock(mutex_);
    const auto known = maps_.find(key);
    if (known == maps_.end()) return false;
    map = known->second;
    return true;
  }
  void add(const std::string& key, const CUtensorMap& map) {
    constexpr std::size_t kMost = 4096;
    const std::lock_guard lock(mutex_);
    if (maps_.size() >= kMost) maps_.clear();
    maps_.emplace(key, map);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, CUtensorMap> maps_;
};

CUresult encode(CUtensorMap* out, const TensorMapRequest& request) {
  static auto& encoded = *new Encoded;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  const std::string key(reinterpret_cast<const char*>(&request), sizeof request);
  CUtensorMap map;
  if (!encoded.find(key, map)) {
    record::tensor_map record;
    reply::tensor_map reply;
    if (const CUresult result = call.ask(record, reply, std::as_bytes(std::span(&request, 1)));
        result != CUDA_SUCCESS) {
      return result;
    }
    map = reply.map;
    encoded.add(key, map);
  }
  std::memcpy(out, &map, sizeof map);
  return CUDA_SUCCESS;
}

// The arguments that all encoders have; false for missing ones. A zeroed request, so that equal ones are
// equal byte for byte.
struct Common {
  CUtensorMapDataType data_type;
  cuuint32_t rank;
  void* address;
  const cuuint64_t* dimensions;
  const cuuint64_t* strides;
  const cuuint32_t* element_strides;
  CUtensorMapInterleave interleave;
  CUtensorMapSwizzle swizzle;
  CUtensorMapL2promotion promotion;
  CUtensorMapFloatOOBfill fill;
};

bool fill_in(TensorMapRequest& request, TensorMapForm form, const Common& common) {
  std::memset(static_cast<void*>(&request), 0, sizeof request);
  if (common.rank == 0 || common.rank > max_tensor_rank || common.dimensions == nullptr ||
      common.element_strides == nullptr || (common.rank > 1 && common.strides == nullptr)) {
    return false;
  }
  request.form = form;
  request.data_type = static_cast<std::int32_t>(common.data_type);
  request.rank = common.rank;
  request.interleave = static_cast<std::int32_t>(common.interleave);
  request.swizzle = static_cast<std::int32_t>(common.swizzle);
  request.l2_promotion = static_cast<std::int32_t>(common.promotion);
  request.oob_fill = static_cast<std::int32_t>(common.fill);
  request.address = bits(common.address);
  for (cuuint32_t i = 0; i < common.rank; ++i) {
    request.dimensions[i] = common.dimensions[i];
    request.element_strides[i] = common.element_strides[i];
    if (i + 1 < common.rank) request.strides[i] = common.strides[i];
  }
  return true;
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;
using vgpu::TensorMapForm;
using vgpu::TensorMapRequest;

VGPU_EXPORT CUresult cuTensorMapEncodeTiled(CUtensorMap* tensorMap, CUtensorMapDataType tensorDataType,
                                            cuuint32_t tensorRank, void* globalAddress,
                                            const cuuint64_t* globalDim, const cuuint64_t* globalStrides,
                                            const cuuint32_t* boxDim, const cuuint32_t* elementStrides,
                                            CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                            CUtensorMapL2promotion l2Promotion,
                                            CUtensorMapFloatOOBfill oobFill) {
  TensorMapRequest request;
  if (tensorMap == nullptr || boxDim == nullptr ||
      !fill_in(request, TensorMapForm::tiled,
               {tensorDataType, tensorRank, globalAddress, globalDim, globalStrides, elementStrides,
                interleave, swizzle, l2Promotion, oobFill})) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  for (cuuint32_t i = 0; i < tensorRank; ++i) request.box[i] = boxDim[i];
  return encode(tensorMap, request);
}

VGPU_EXPORT CUresult cuTensorMapEncodeIm2col(
    CUtensorMap* tensorMap, CUtensorMapDataType tensorDataType, cuuint32_t tensorRank, void* globalAddress,
    const cuuint64_t* globalDim, const cuuint64_t* globalStrides, const int* pixelBoxLowerCorner,
    const int* pixelBoxUpperCorner, cuuint32_t channelsPerPixel, cuuint32_t pixelsPerColumn,
    const cuuint32_t* elementStrides, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
    CUtensorMapL2promotion l2Promotion, CUtensorMapFloatOOBfill oobFill) {
  TensorMapRequest request;
  if (tensorMap == nullptr || pixelBoxLowerCorner == nullptr || pixelBoxUpperCorner == nullptr ||
      !fill_in(request, TensorMapForm::im2col,
               {tensorDataType, tensorRank, globalAddress, globalDim, globalStrides, elementStrides,
                interleave, swizzle, l2Promotion, oobFill}) ||
      tensorRank < 3) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  // Of the spatial dimensions: all but the batch and the channels.
  for (cuuint32_t i = 0; i + 2 < tensorRank; ++i) {
    request.lower_corner[i] = pixelBoxLowerCorner[i];
    request.upper_corner[i] = pixelBoxUpperCorner[i];
  }
  request.channels = channelsPerPixel;
  request.pixels = pixelsPerColumn;
  return encode(tensorMap, request);
}

VGPU_EXPORT CUresult cuTensorMapEncodeIm2colWide(
    CUtensorMap* tensorMap, CUtensorMapDataType tensorDataType, cuuint32_t tensorRank, void* globalAddress,
    const cuuint64_t* globalDim, const cuuint64_t* globalStrides, int pixelBoxLowerCornerWidth,
    int pixelBoxUpperCornerWidth, cuuint32_t channelsPerPixel, cuuint32_t pixelsPerColumn,
    const cuuint32_t* elementStrides, CUtensorMapInterleave interleave, CUtensorMapIm2ColWideMode mode,
    CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2Promotion, CUtensorMapFloatOOBfill oobFill) {
  TensorMapRequest request;
  if (tensorMap == nullptr || !fill_in(request, TensorMapForm::im2col_wide,
                                       {tensorDataType, tensorRank, globalAddress, globalDim, globalStrides,
                                        elementStrides, interleave, swizzle, l2Promotion, oobFill})) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  request.lower_corner[0] = pixelBoxLowerCornerWidth;
  request.upper_corner[0] = pixelBoxUpperCornerWidth;
  request.channels = channelsPerPixel;
  request.pixels = pixelsPerColumn;
  request.wide_mode = static_cast<std::int32_t>(mode);
  return encode(tensorMap, request);
}

VGPU_EXPORT CUresult cuTensorMapReplaceAddress(CUtensorMap* tensorMap, void* globalAddress) {
  if (tensorMap == nullptr) return CUDA_ERROR_INVALID_VALUE;
  TensorMapRequest request;
  std::memset(static_cast<void*>(&request), 0, sizeof request);
  request.form = TensorMapForm::replace_address;
  request.address = bits(globalAddress);
  static_assert(sizeof request.map == sizeof *tensorMap);
  std::memcpy(request.map, tensorMap, sizeof request.map);
  return encode(tensorMap, request);
}
