#include "cudaabi/copy_batch.hpp"

#include <algorithm>
#include <cstdint>

#include "cudaabi/unsupported.hpp"

namespace cudaabi {
namespace {

bool known(CUmemcpySrcAccessOrder order) {
  return order == CU_MEMCPY_SRC_ACCESS_ORDER_STREAM || order == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL ||
         order == CU_MEMCPY_SRC_ACCESS_ORDER_ANY;
}

// Bytes of an array's element; 0 for formats that no single copy of ours knows either.
std::size_t element_bytes(const CUDA_ARRAY3D_DESCRIPTOR& array) {
  switch (array.Format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
      return array.NumChannels;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
      return std::size_t{2} * array.NumChannels;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
      return std::size_t{4} * array.NumChannels;
    default:
      return 0;
  }
}

// The size of the operand's elements; 0 where it has none of its own.
CUresult element_of(const CopyCalls& calls, const CUmemcpy3DOperand& operand, std::size_t& bytes) {
  bytes = 0;
  if (operand.type == CU_MEMCPY_OPERAND_TYPE_POINTER) return CUDA_SUCCESS;
  if (operand.type != CU_MEMCPY_OPERAND_TYPE_ARRAY) return CUDA_ERROR_INVALID_VALUE;
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};
  if (const CUresult result = calls.describe(&descriptor, operand.op.array.array); result != CUDA_SUCCESS)
    return result;
  bytes = element_bytes(descriptor);
  return bytes != 0 ? CUDA_SUCCESS
                    : static_cast<CUresult>(note_unsupported("batched copies of arrays of such a format"));
}

// One side of a copy, by its names in CUDA_MEMCPY3D.
struct Side {
  CUmemorytype& type;
  CUdeviceptr& device;
  CUarray& array;
  std::size_t &x, &y, &z, &pitch, &height;
};

CUresult fill_side(const CUmemcpy3DOperand& operand, const CUextent3D& extent, std::size_t element,
                   Side side) {
  if (operand.type == CU_MEMCPY_OPERAND_TYPE_ARRAY) {
    side.type = CU_MEMORYTYPE_ARRAY;
    side.array = operand.op.array.array;
    side.x = operand.op.array.offset.x * element;
    side.y = operand.op.array.offset.y;
    side.z = operand.op.array.offset.z;
    return CUDA_SUCCESS;
  }
  const auto& memory = operand.op.ptr;
  if ((memory.rowLength != 0 && memory.rowLength < extent.width) ||
      (memory.layerHeight != 0 && memory.layerHeight < extent.height)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  side.type = CU_MEMORYTYPE_UNIFIED;
  side.device = memory.ptr;
  side.pitch = (memory.rowLength != 0 ? memory.rowLength : extent.width) * element;
  side.height = memory.layerHeight != 0 ? memory.layerHeight : extent.height;
  return CUDA_SUCCESS;
}

CUresult single_copy(const CopyCalls& calls, const CUDA_MEMCPY3D_BATCH_OP& box, CUDA_MEMCPY3D& copy) {
  if (box.extent.width == 0 || box.extent.height == 0 || box.extent.depth == 0)
    return CUDA_ERROR_INVALID_VALUE;
  std::size_t source = 0;
  std::size_t target = 0;
  if (const CUresult result = element_of(calls, box.src, source); result != CUDA_SUCCESS) return result;
  if (const CUresult result = element_of(calls, box.dst, target); result != CUDA_SUCCESS) return result;
  if (source != 0 && target != 0 && source != target) return CUDA_ERROR_INVALID_VALUE;
  const std::size_t element = std::max({source, target, std::size_t{1}});
  copy.WidthInBytes = box.extent.width * element;
  copy.Height = box.extent.height;
  copy.Depth = box.extent.depth;
  const Side from{copy.srcMemoryType, copy.srcDevice, copy.srcArray, copy.srcXInBytes,
                  copy.srcY,          copy.srcZ,      copy.srcPitch, copy.srcHeight};
  const Side to{copy.dstMemoryType, copy.dstDevice, copy.dstArray, copy.dstXInBytes,
                copy.dstY,          copy.dstZ,      copy.dstPitch, copy.dstHeight};
  const CUresult result = fill_side(box.src, box.extent, element, from);
  return result == CUDA_SUCCESS ? fill_side(box.dst, box.extent, element, to) : result;
}

}  // namespace

CUresult copy_batch(const CopyCalls& calls, const CopyList& list, std::size_t* failed, CUstream stream) {
  if (failed != nullptr) *failed = SIZE_MAX;
  if (list.targets == nullptr || list.sources == nullptr || list.sizes == nullptr ||
      !list.attributes.cover(list.count)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  bool during_call = false;
  for (std::size_t i = 0; i < list.attributes.count; ++i) {
    const auto order = list.attributes.values[i].srcAccessOrder;
    if (!known(order)) return CUDA_ERROR_INVALID_VALUE;
    during_call = during_call || order == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
  }
  for (std::size_t i = 0; i < list.count; ++i) {
    const CUresult result = calls.copy(list.targets[i], list.sources[i], list.sizes[i], stream);
    if (result == CUDA_SUCCESS) continue;
    if (failed != nullptr) *failed = i;
    return result;
  }
  // The sources may not be read later than now: pageable ones never are, shared ones are in stream order.
  return during_call ? calls.synchronize(stream) : CUDA_SUCCESS;
}

CUresult copy_box_batch(const CopyCalls& calls, std::size_t count, const CUDA_MEMCPY3D_BATCH_OP* boxes,
                        std::size_t* failed, unsigned long long flags, CUstream stream) {
  if (failed != nullptr) *failed = SIZE_MAX;
  if (count == 0 || boxes == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  bool during_call = false;
  for (std::size_t i = 0; i < count; ++i) {
    if (!known(boxes[i].srcAccessOrder)) return CUDA_ERROR_INVALID_VALUE;
    during_call = during_call || boxes[i].srcAccessOrder == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
  }
  for (std::size_t i = 0; i < count; ++i) {
    CUDA_MEMCPY3D copy{};
    CUresult result = single_copy(calls, boxes[i], copy);
    if (result == CUDA_SUCCESS) result = calls.copy_box(&copy, stream);
    if (result == CUDA_SUCCESS) continue;
    if (failed != nullptr) *failed = i;
    return result;
  }
  return during_call ? calls.synchronize(stream) : CUDA_SUCCESS;
}

}  // namespace cudaabi
