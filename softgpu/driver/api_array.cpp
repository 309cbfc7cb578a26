// cuArray* and cuMipmappedArray*, and the one-dimensional copies of arrays.
#include "softgpu/driver/api.hpp"
#include "softgpu/driver/array.hpp"
#include "softgpu/driver/copy_plan.hpp"
#include "softgpu/driver/graph.hpp"

using namespace softgpu;

namespace {

CUresult create(CUarray* out, const CUDA_ARRAY3D_DESCRIPTOR& descriptor) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if (const CUresult error = refuse_in_capture(); error != CUDA_SUCCESS) return error;
    std::shared_ptr<Array> array;
    if (const CUresult error = make_array(context, descriptor, array); error != CUDA_SUCCESS) return error;
    *out = driver.arrays.add(std::move(array))->handle();
    return CUDA_SUCCESS;
  });
}

CUresult copy_one(CUstream stream_handle, bool blocking, const CUDA_MEMCPY3D& params) {
  return on_stream(stream_handle, [&](Driver&, Context&, Stream& stream) -> CUresult {
    CopyPlan plan;
    if (const CUresult error = plan_of(params, plan); error != CUDA_SUCCESS) return error;
    return copy(stream, std::move(plan), blocking);
  });
}

struct Side {
  CUmemorytype type;
  void* host = nullptr;
  CUdeviceptr device = 0;
  CUarray array = nullptr;
  std::size_t offset = 0;
};
Side on_host(const void* p) {
  return {CU_MEMORYTYPE_HOST, const_cast<void*>(p)};
}
Side on_device(CUdeviceptr p) {
  return {CU_MEMORYTYPE_DEVICE, nullptr, p};
}
Side in_array(CUarray array, std::size_t offset) {
  return {CU_MEMORYTYPE_ARRAY, nullptr, 0, array, offset};
}

CUresult copy_row(const Side& to, const Side& from, std::size_t bytes, CUstream stream, bool blocking) {
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = from.type;
  copy.srcHost = from.host;
  copy.srcDevice = from.device;
  copy.srcArray = from.array;
  copy.srcXInBytes = from.offset;
  copy.dstMemoryType = to.type;
  copy.dstHost = to.host;
  copy.dstDevice = to.device;
  copy.dstArray = to.array;
  copy.dstXInBytes = to.offset;
  copy.WidthInBytes = bytes;
  copy.Height = copy.Depth = 1;
  return copy_one(stream, blocking, copy);
}

}  // namespace

SOFTGPU_API cuArrayCreate_v2(CUarray* out, const CUDA_ARRAY_DESCRIPTOR* flat) {
  if (out == nullptr || flat == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};
  descriptor.Width = flat->Width;
  descriptor.Height = flat->Height;
  descriptor.Format = flat->Format;
  descriptor.NumChannels = flat->NumChannels;
  return create(out, descriptor);
}

SOFTGPU_API cuArray3DCreate_v2(CUarray* out, const CUDA_ARRAY3D_DESCRIPTOR* descriptor) {
  return out == nullptr || descriptor == nullptr ? CUDA_ERROR_INVALID_VALUE : create(out, *descriptor);
}

SOFTGPU_API cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR* out, CUarray handle) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    const auto array = driver.arrays.find(handle);
    if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const CUDA_ARRAY3D_DESCRIPTOR& d = array->descriptor;
    *out = {d.Width, d.Height, d.Format, d.NumChannels};
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR* out, CUarray handle) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    const auto array = driver.arrays.find(handle);
    if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *out = array->descriptor;
    return CUDA_SUCCESS;
  });
}

// Work that uses the array may be under way.
SOFTGPU_API cuArrayDestroy(CUarray handle) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    const auto array = driver.arrays.find(handle);
    if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (array->level) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult error = refuse_in_capture(); error != CUDA_SUCCESS) return error;
    context.synchronize();
    driver.arrays.remove(handle);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMipmappedArrayCreate(CUmipmappedArray* out, const CUDA_ARRAY3D_DESCRIPTOR* descriptor,
                                   unsigned levels) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if (out == nullptr || descriptor == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult error = refuse_in_capture(); error != CUDA_SUCCESS) return error;
    std::shared_ptr<MipmappedArray> made;
    if (const CUresult error = make_mipmapped_array(context, *descriptor, levels, made);
        error != CUDA_SUCCESS)
      return error;
    for (const auto& level : made->levels) driver.arrays.add(level);
    *out = driver.mipmapped_arrays.add(std::move(made))->handle();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMipmappedArrayGetLevel(CUarray* out, CUmipmappedArray handle, unsigned level) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    const auto array = driver.mipmapped_arrays.find(handle);
    if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (out == nullptr || level >= array->levels.size()) return CUDA_ERROR_INVALID_VALUE;
    *out = array->levels[level]->handle();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMipmappedArrayDestroy(CUmipmappedArray handle) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    const auto array = driver.mipmapped_arrays.find(handle);
    if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (const CUresult error = refuse_in_capture(); error != CUDA_SUCCESS) return error;
    context.synchronize();
    driver.mipmapped_arrays.remove(handle);
    for (const auto& level : array->levels) driver.arrays.remove(level.get());
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemcpyHtoA_v2(CUarray to, std::size_t offset, const void* from, std::size_t n) {
  return copy_row(in_array(to, offset), on_host(from), n, legacy_default, true);
}
SOFTGPU_API cuMemcpyHtoA_v2_ptds(CUarray to, std::size_t offset, const void* from, std::size_t n) {
  return copy_row(in_array(to, offset), on_host(from), n, per_thread_default, true);
}
SOFTGPU_API cuMemcpyHtoAAsync_v2(CUarray to, std::size_t offset, const void* from, std::size_t n,
                                 CUstream s) {
  return copy_row(in_array(to, offset), on_host(from), n, s, false);
}
SOFTGPU_API cuMemcpyHtoAAsync_v2_ptsz(CUarray to, std::size_t offset, const void* from, std::size_t n,
                                      CUstream s) {
  return copy_row(in_array(to, offset), on_host(from), n, per_thread(s), false);
}
SOFTGPU_API cuMemcpyAtoH_v2(void* to, CUarray from, std::size_t offset, std::size_t n) {
  return copy_row(on_host(to), in_array(from, offset), n, legacy_default, true);
}
SOFTGPU_API cuMemcpyAtoH_v2_ptds(void* to, CUarray from, std::size_t offset, std::size_t n) {
  return copy_row(on_host(to), in_array(from, offset), n, per_thread_default, true);
}
SOFTGPU_API cuMemcpyAtoHAsync_v2(void* to, CUarray from, std::size_t offset, std::size_t n, CUstream s) {
  return copy_row(on_host(to), in_array(from, offset), n, s, false);
}
SOFTGPU_API cuMemcpyAtoHAsync_v2_ptsz(void* to, CUarray from, std::size_t offset, std::size_t n, CUstream s) {
  return copy_row(on_host(to), in_array(from, offset), n, per_thread(s), false);
}
SOFTGPU_API cuMemcpyDtoA_v2(CUarray to, std::size_t offset, CUdeviceptr from, std::size_t n) {
  return copy_row(in_array(to, offset), on_device(from), n, legacy_default, true);
}
SOFTGPU_API cuMemcpyDtoA_v2_ptds(CUarray to, std::size_t offset, CUdeviceptr from, std::size_t n) {
  return copy_row(in_array(to, offset), on_device(from), n, per_thread_default, true);
}
SOFTGPU_API cuMemcpyAtoD_v2(CUdeviceptr to, CUarray from, std::size_t offset, std::size_t n) {
  return copy_row(on_device(to), in_array(from, offset), n, legacy_default, true);
}
SOFTGPU_API cuMemcpyAtoD_v2_ptds(CUdeviceptr to, CUarray from, std::size_t offset, std::size_t n) {
  return copy_row(on_device(to), in_array(from, offset), n, per_thread_default, true);
}
SOFTGPU_API cuMemcpyAtoA_v2(CUarray to, std::size_t to_offset, CUarray from, std::size_t from_offset,
                            std::size_t n) {
  return copy_row(in_array(to, to_offset), in_array(from, from_offset), n, legacy_default, true);
}
SOFTGPU_API cuMemcpyAtoA_v2_ptds(CUarray to, std::size_t to_offset, CUarray from, std::size_t from_offset,
                                 std::size_t n) {
  return copy_row(in_array(to, to_offset), in_array(from, from_offset), n, per_thread_default, true);
}
