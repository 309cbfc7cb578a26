// The copy calls. Each is one of the copies of copy.hpp on a stream.
#include "libclient/cuda/copy.hpp"

namespace vgpu::client {
namespace {

template <class F>
CUresult on_stream(CUstream stream, bool per_thread, F&& copy) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const std::uint64_t handle = call.stream(stream, per_thread);
  if (call.problem() != CUDA_SUCCESS) return call.problem();
  return copy(call, handle);
}

CUresult host_to_device(CUdeviceptr target, const void* source, std::size_t bytes, CUstream stream,
                        bool per_thread, CopyMode mode) {
  return on_stream(stream, per_thread, [&](Call& call, std::uint64_t handle) {
    return copy_to_device(call, target, source, bytes, handle, mode);
  });
}

CUresult device_to_host(void* target, CUdeviceptr source, std::size_t bytes, CUstream stream, bool per_thread,
                        CopyMode mode) {
  return on_stream(stream, per_thread, [&](Call& call, std::uint64_t handle) {
    return copy_from_device(call, target, source, bytes, handle, mode);
  });
}

CUresult unified(CUdeviceptr target, CUdeviceptr source, std::size_t bytes, CUstream stream, bool per_thread,
                 CopyMode mode) {
  return on_stream(stream, per_thread, [&](Call& call, std::uint64_t handle) {
    return copy_unified(call, target, source, bytes, handle, mode);
  });
}

// A copy inside the device is asynchronous with respect to the host even in its plain form.
CUresult device_to_device(CUdeviceptr target, CUdeviceptr source, std::size_t bytes, CUstream stream,
                          bool per_thread) {
  return on_stream(stream, per_thread, [&](Call& call, std::uint64_t handle) {
    return copy_within(call, target, source, bytes, handle, CopyMode::asynchronous);
  });
}

CUresult box(const CUDA_MEMCPY3D* copy, CUstream stream, bool per_thread, CopyMode mode) {
  if (copy == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return on_stream(stream, per_thread,
                   [&](Call& call, std::uint64_t handle) { return copy_box(call, *copy, handle, mode); });
}

CUresult rectangle(const CUDA_MEMCPY2D* flat, CUstream stream, bool per_thread, CopyMode mode) {
  if (flat == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUDA_MEMCPY3D copy{};
  copy.srcXInBytes = flat->srcXInBytes;
  copy.srcY = flat->srcY;
  copy.srcMemoryType = flat->srcMemoryType;
  copy.srcHost = flat->srcHost;
  copy.srcDevice = flat->srcDevice;
  copy.srcArray = flat->srcArray;
  copy.srcPitch = flat->srcPitch;
  copy.dstXInBytes = flat->dstXInBytes;
  copy.dstY = flat->dstY;
  copy.dstMemoryType = flat->dstMemoryType;
  copy.dstHost = flat->dstHost;
  copy.dstDevice = flat->dstDevice;
  copy.dstArray = flat->dstArray;
  copy.dstPitch = flat->dstPitch;
  copy.WidthInBytes = flat->WidthInBytes;
  copy.Height = flat->Height;
  copy.Depth = 1;
  return box(&copy, stream, per_thread, mode);
}

// The contexts that a copy between devices names.
CUresult find_peers(Call& call, CUcontext source, CUcontext target, CopyContexts& found) {
  found.source = call.process().contexts.find(source);
  found.target = call.process().contexts.find(target);
  return found.source != nullptr && found.target != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

// Addresses say themselves on which device they are.
CUresult peer_to_peer(CUdeviceptr target, CUcontext target_context, CUdeviceptr source,
                      CUcontext source_context, std::size_t bytes, CUstream stream, bool per_thread) {
  return on_stream(stream, per_thread, [&](Call& call, std::uint64_t handle) {
    CopyContexts contexts;
    if (const CUresult result = find_peers(call, source_context, target_context, contexts);
        result != CUDA_SUCCESS) {
      return result;
    }
    return copy_within(call, target, source, bytes, handle, CopyMode::asynchronous);
  });
}

// The synchronous copies between devices come after all that was sent to either, and before what follows.
CUresult synchronise_peers(CUcontext source, CUcontext target) {
  for (const CUcontext peer : {source, target}) {
    if (const CUresult result = cuCtxSynchronize_v2(peer); result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

bool apart(CUcontext source, CUcontext target) {
  Process* const ready = process();
  if (ready == nullptr || ready->device_count() == 1) return false;
  Contexts& contexts = ready->contexts;
  const Context* const from = contexts.find(source);
  const Context* const to = contexts.find(target);
  const Context* const current = this_thread().current;
  return from != nullptr && to != nullptr && current != nullptr &&
         (from->device != current->device || to->device != current->device);
}

CUresult peer_to_peer_in_order(CUdeviceptr target, CUcontext target_context, CUdeviceptr source,
                               CUcontext source_context, std::size_t bytes, bool per_thread) {
  if (!apart(source_context, target_context)) {
    return peer_to_peer(target, target_context, source, source_context, bytes, nullptr, per_thread);
  }
  if (const CUresult result = synchronise_peers(source_context, target_context); result != CUDA_SUCCESS)
    return result;
  return on_stream(nullptr, per_thread, [&](Call& call, std::uint64_t handle) {
    return copy_within(call, target, source, bytes, handle, CopyMode::synchronous);
  });
}

CUresult peer_box(const CUDA_MEMCPY3D_PEER* peer, CUstream stream, bool per_thread, CopyMode mode) {
  if (peer == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUDA_MEMCPY3D copy{};
  copy.srcXInBytes = peer->srcXInBytes;
  copy.srcY = peer->srcY;
  copy.srcZ = peer->srcZ;
  copy.srcLOD = peer->srcLOD;
  copy.srcMemoryType = peer->srcMemoryType;
  copy.srcHost = peer->srcHost;
  copy.srcDevice = peer->srcDevice;
  copy.srcArray = peer->srcArray;
  copy.srcPitch = peer->srcPitch;
  copy.srcHeight = peer->srcHeight;
  copy.dstXInBytes = peer->dstXInBytes;
  copy.dstY = peer->dstY;
  copy.dstZ = peer->dstZ;
  copy.dstLOD = peer->dstLOD;
  copy.dstMemoryType = peer->dstMemoryType;
  copy.dstHost = peer->dstHost;
  copy.dstDevice = peer->dstDevice;
  copy.dstArray = peer->dstArray;
  copy.dstPitch = peer->dstPitch;
  copy.dstHeight = peer->dstHeight;
  copy.WidthInBytes = peer->WidthInBytes;
  copy.Height = peer->Height;
  copy.Depth = peer->Depth;
  if (mode == CopyMode::synchronous && apart(peer->srcContext, peer->dstContext)) {
    if (const CUresult result = synchronise_peers(peer->srcContext, peer->dstContext); result != CUDA_SUCCESS)
      return result;
  }
  return on_stream(stream, per_thread, [&](Call& call, std::uint64_t handle) {
    CopyContexts contexts;
    // Of a side in host memory none need be given.
    contexts.source = call.process().contexts.find(peer->srcContext);
    contexts.target = call.process().contexts.find(peer->dstContext);
    return copy_box(call, copy, handle, mode, contexts);
  });
}

CUresult between_array_and_host(CUarray array, std::size_t offset, void* host, std::size_t bytes, bool upload,
                                CUstream stream, bool per_thread, CopyMode mode) {
  CUDA_MEMCPY3D copy{};
  copy.WidthInBytes = bytes;
  copy.Height = 1;
  copy.Depth = 1;
  if (upload) {
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = host;
    copy.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    copy.dstArray = array;
    copy.dstXInBytes = offset;
  } else {
    copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    copy.srcArray = array;
    copy.srcXInBytes = offset;
    copy.dstMemoryType = CU_MEMORYTYPE_HOST;
    copy.dstHost = host;
  }
  return box(&copy, stream, per_thread, mode);
}

// Within the device; in order, and asynchronous with respect to the host.
CUresult row_of_array(CUarray to, std::size_t to_offset, CUdeviceptr to_device, CUarray from,
                      std::size_t from_offset, CUdeviceptr from_device, std::size_t bytes, bool per_thread) {
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = from != nullptr ? CU_MEMORYTYPE_ARRAY : CU_MEMORYTYPE_DEVICE;
  copy.srcArray = from;
  copy.srcXInBytes = from_offset;
  copy.srcDevice = from_device;
  copy.dstMemoryType = to != nullptr ? CU_MEMORYTYPE_ARRAY : CU_MEMORYTYPE_DEVICE;
  copy.dstArray = to;
  copy.dstXInBytes = to_offset;
  copy.dstDevice = to_device;
  copy.WidthInBytes = bytes;
  copy.Height = 1;
  copy.Depth = 1;
  return box(&copy, nullptr, per_thread, CopyMode::synchronous);
}

constexpr auto kSync = CopyMode::synchronous;
constexpr auto kAsync = CopyMode::asynchronous;

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;

VGPU_EXPORT CUresult cuMemcpy(CUdeviceptr d, CUdeviceptr s, size_t n) {
  return unified(d, s, n, nullptr, false, kSync);
}
VGPU_EXPORT CUresult cuMemcpy_ptds(CUdeviceptr d, CUdeviceptr s, size_t n) {
  return unified(d, s, n, nullptr, true, kSync);
}
VGPU_EXPORT CUresult cuMemcpyAsync(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream h) {
  return unified(d, s, n, h, false, kAsync);
}
VGPU_EXPORT CUresult cuMemcpyAsync_ptsz(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream h) {
  return unified(d, s, n, h, true, kAsync);
}
VGPU_EXPORT CUresult cuMemcpyPeer(CUdeviceptr d, CUcontext to, CUdeviceptr s, CUcontext from, size_t n) {
  return peer_to_peer_in_order(d, to, s, from, n, false);
}
VGPU_EXPORT CUresult cuMemcpyPeer_ptds(CUdeviceptr d, CUcontext to, CUdeviceptr s, CUcontext from, size_t n) {
  return peer_to_peer_in_order(d, to, s, from, n, true);
}
VGPU_EXPORT CUresult cuMemcpyPeerAsync(CUdeviceptr d, CUcontext to, CUdeviceptr s, CUcontext from, size_t n,
                                       CUstream h) {
  return peer_to_peer(d, to, s, from, n, h, false);
}
VGPU_EXPORT CUresult cuMemcpyPeerAsync_ptsz(CUdeviceptr d, CUcontext to, CUdeviceptr s, CUcontext from,
                                            size_t n, CUstream h) {
  return peer_to_peer(d, to, s, from, n, h, true);
}
VGPU_EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void* s, size_t n) {
  return host_to_device(d, s, n, nullptr, false, kSync);
}
VGPU_EXPORT CUresult cuMemcpyHtoD_v2_ptds(CUdeviceptr d, const void* s, size_t n) {
  return host_to_device(d, s, n, nullptr, true, kSync);
}
VGPU_EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr d, const void* s, size_t n, CUstream h) {
  return host_to_device(d, s, n, h, false, kAsync);
}
VGPU_EXPORT CUresult cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr d, const void* s, size_t n, CUstream h) {
  return host_to_device(d, s, n, h, true, kAsync);
}
VGPU_EXPORT CUresult cuMemcpyDtoH_v2(void* d, CUdeviceptr s, size_t n) {
  return device_to_host(d, s, n, nullptr, false, kSync);
}
VGPU_EXPORT CUresult cuMemcpyDtoH_v2_ptds(void* d, CUdeviceptr s, size_t n) {
  return device_to_host(d, s, n, nullptr, true, kSync);
}
VGPU_EXPORT CUresult cuMemcpyDtoHAsync_v2(void* d, CUdeviceptr s, size_t n, CUstream h) {
  return device_to_host(d, s, n, h, false, kAsync);
}
VGPU_EXPORT CUresult cuMemcpyDtoHAsync_v2_ptsz(void* d, CUdeviceptr s, size_t n, CUstream h) {
  return device_to_host(d, s, n, h, true, kAsync);
}
VGPU_EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr d, CUdeviceptr s, size_t n) {
  return device_to_device(d, s, n, nullptr, false);
}
VGPU_EXPORT CUresult cuMemcpyDtoD_v2_ptds(CUdeviceptr d, CUdeviceptr s, size_t n) {
  return device_to_device(d, s, n, nullptr, true);
}
VGPU_EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream h) {
  return device_to_device(d, s, n, h, false);
}
VGPU_EXPORT CUresult cuMemcpyDtoDAsync_v2_ptsz(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream h) {
  return device_to_device(d, s, n, h, true);
}
VGPU_EXPORT CUresult cuMemcpyHtoA_v2(CUarray a, size_t o, const void* s, size_t n) {
  return between_array_and_host(a, o, const_cast<void*>(s), n, true, nullptr, false, kSync);
}
VGPU_EXPORT CUresult cuMemcpyHtoA_v2_ptds(CUarray a, size_t o, const void* s, size_t n) {
  return between_array_and_host(a, o, const_cast<void*>(s), n, true, nullptr, true, kSync);
}
VGPU_EXPORT CUresult cuMemcpyAtoH_v2(void* d, CUarray a, size_t o, size_t n) {
  return between_array_and_host(a, o, d, n, false, nullptr, false, kSync);
}
VGPU_EXPORT CUresult cuMemcpyAtoH_v2_ptds(void* d, CUarray a, size_t o, size_t n) {
  return between_array_and_host(a, o, d, n, false, nullptr, true, kSync);
}
VGPU_EXPORT CUresult cuMemcpyHtoAAsync_v2(CUarray a, size_t o, const void* s, size_t n, CUstream h) {
  return between_array_and_host(a, o, const_cast<void*>(s), n, true, h, false, kAsync);
}
VGPU_EXPORT CUresult cuMemcpyHtoAAsync_v2_ptsz(CUarray a, size_t o, const void* s, size_t n, CUstream h) {
  return between_array_and_host(a, o, const_cast<void*>(s), n, true, h, true, kAsync);
}
VGPU_EXPORT CUresult cuMemcpyAtoHAsync_v2(void* d, CUarray a, size_t o, size_t n, CUstream h) {
  return between_array_and_host(a, o, d, n, false, h, false, kAsync);
}
VGPU_EXPORT CUresult cuMemcpyAtoHAsync_v2_ptsz(void* d, CUarray a, size_t o, size_t n, CUstream h) {
  return between_array_and_host(a, o, d, n, false, h, true, kAsync);
}
VGPU_EXPORT CUresult cuMemcpyDtoA_v2(CUarray a, size_t o, CUdeviceptr s, size_t n) {
  return a == nullptr ? CUDA_ERROR_INVALID_HANDLE : row_of_array(a, o, 0, nullptr, 0, s, n, false);
}
VGPU_EXPORT CUresult cuMemcpyDtoA_v2_ptds(CUarray a, size_t o, CUdeviceptr s, size_t n) {
  return a == nullptr ? CUDA_ERROR_INVALID_HANDLE : row_of_array(a, o, 0, nullptr, 0, s, n, true);
}
VGPU_EXPORT CUresult cuMemcpyAtoD_v2(CUdeviceptr d, CUarray a, size_t o, size_t n) {
  return a == nullptr ? CUDA_ERROR_INVALID_HANDLE : row_of_array(nullptr, 0, d, a, o, 0, n, false);
}
VGPU_EXPORT CUresult cuMemcpyAtoD_v2_ptds(CUdeviceptr d, CUarray a, size_t o, size_t n) {
  return a == nullptr ? CUDA_ERROR_INVALID_HANDLE : row_of_array(nullptr, 0, d, a, o, 0, n, true);
}
VGPU_EXPORT CUresult cuMemcpyAtoA_v2(CUarray d, size_t p, CUarray a, size_t o, size_t n) {
  return a == nullptr || d == nullptr ? CUDA_ERROR_INVALID_HANDLE : row_of_array(d, p, 0, a, o, 0, n, false);
}
VGPU_EXPORT CUresult cuMemcpyAtoA_v2_ptds(CUarray d, size_t p, CUarray a, size_t o, size_t n) {
  return a == nullptr || d == nullptr ? CUDA_ERROR_INVALID_HANDLE : row_of_array(d, p, 0, a, o, 0, n, true);
}
VGPU_EXPORT CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D* c) {
  return rectangle(c, nullptr, false, kSync);
}
VGPU_EXPORT CUresult cuMemcpy2D_v2_ptds(const CUDA_MEMCPY2D* c) {
  return rectangle(c, nullptr, true, kSync);
}
VGPU_EXPORT CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* c) {
  return rectangle(c, nullptr, false, kSync);
}
VGPU_EXPORT CUresult cuMemcpy2DUnaligned_v2_ptds(const CUDA_MEMCPY2D* c) {
  return rectangle(c, nullptr, true, kSync);
}
VGPU_EXPORT CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* c, CUstream h) {
  return rectangle(c, h, false, kAsync);
}
VGPU_EXPORT CUresult cuMemcpy2DAsync_v2_ptsz(const CUDA_MEMCPY2D* c, CUstream h) {
  return rectangle(c, h, true, kAsync);
}
VGPU_EXPORT CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D* c) {
  return box(c, nullptr, false, kSync);
}
VGPU_EXPORT CUresult cuMemcpy3D_v2_ptds(const CUDA_MEMCPY3D* c) {
  return box(c, nullptr, true, kSync);
}
VGPU_EXPORT CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* c, CUstream h) {
  return box(c, h, false, kAsync);
}
VGPU_EXPORT CUresult cuMemcpy3DAsync_v2_ptsz(const CUDA_MEMCPY3D* c, CUstream h) {
  return box(c, h, true, kAsync);
}
VGPU_EXPORT CUresult cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER* c) {
  return peer_box(c, nullptr, false, kSync);
}
VGPU_EXPORT CUresult cuMemcpy3DPeer_ptds(const CUDA_MEMCPY3D_PEER* c) {
  return peer_box(c, nullptr, true, kSync);
}
VGPU_EXPORT CUresult cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER* c, CUstream h) {
  return peer_box(c, h, false, kAsync);
}
VGPU_EXPORT CUresult cuMemcpy3DPeerAsync_ptsz(const CUDA_MEMCPY3D_PEER* c, CUstream h) {
  return peer_box(c, h, true, kAsync);
}
