// Several devices: what they are to each other, peer access, and the copies that name two contexts. The
// contexts say nothing that the addresses do not; they are only checked.
#include <cstring>
#include <set>
#include <utility>

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/copy_plan.hpp"
#include "softgpu/driver/peer.hpp"

using namespace softgpu;

namespace {

// {who, to whose memory}.
struct PeerAccess {
  std::mutex mutex;
  std::set<std::pair<const Context*, const Context*>> enabled;
};

PeerAccess& peer_access() {
  static auto* const instance = new PeerAccess;
  return *instance;
}

// Runs body(Context& current, Context& peer) with a peer that is alive.
template <class Body>
CUresult with_peer(CUcontext handle, Body&& body) noexcept {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    const auto peer = find_context(driver, handle);
    if (peer == nullptr || !peer->alive.load()) return CUDA_ERROR_INVALID_CONTEXT;
    return body(context, *peer);
  });
}

// A copy's context may be left out.
CUresult check_context(Driver& driver, CUcontext handle) {
  if (handle == nullptr) return CUDA_SUCCESS;
  return context_error(find_context(driver, handle).get());
}

CUresult copy_between(CUstream stream_handle, bool blocking, CUcontext to, CUcontext from,
                      const auto& make_plan) {
  return on_stream(stream_handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    for (const CUcontext handle : {to, from}) {
      if (const CUresult error = check_context(driver, handle); error != CUDA_SUCCESS) return error;
    }
    CopyPlan plan;
    if (const CUresult error = make_plan(plan); error != CUDA_SUCCESS) return error;
    return copy(stream, std::move(plan), blocking);
  });
}

CUresult copy_flat_peer(CUstream stream, bool blocking, CUdeviceptr to, CUcontext to_context,
                        CUdeviceptr from, CUcontext from_context, std::size_t bytes) {
  return copy_between(stream, blocking, to_context, from_context, [&](CopyPlan& plan) {
    plan = flat_plan(to, Claim::device, from, Claim::device, bytes);
    return CUDA_SUCCESS;
  });
}

CUDA_MEMCPY3D without_contexts(const CUDA_MEMCPY3D_PEER& params) {
  CUDA_MEMCPY3D plain{};
  plain.srcXInBytes = params.srcXInBytes;
  plain.srcY = params.srcY;
  plain.srcZ = params.srcZ;
  plain.srcLOD = params.srcLOD;
  plain.srcMemoryType = params.srcMemoryType;
  plain.srcHost = params.srcHost;
  plain.srcDevice = params.srcDevice;
  plain.srcArray = params.srcArray;
  plain.srcPitch = params.srcPitch;
  plain.srcHeight = params.srcHeight;
  plain.dstXInBytes = params.dstXInBytes;
  plain.dstY = params.dstY;
  plain.dstZ = params.dstZ;
  plain.dstLOD = params.dstLOD;
  plain.dstMemoryType = params.dstMemoryType;
  plain.dstHost = params.dstHost;
  plain.dstDevice = params.dstDevice;
  plain.dstArray = params.dstArray;
  plain.dstPitch = params.dstPitch;
  plain.dstHeight = params.dstHeight;
  plain.WidthInBytes = params.WidthInBytes;
  plain.Height = params.Height;
  plain.Depth = params.Depth;
  return plain;
}

CUresult copy_3d_peer(CUstream stream, bool blocking, const CUDA_MEMCPY3D_PEER* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return copy_between(stream, blocking, params->dstContext, params->srcContext,
                      [&](CopyPlan& plan) { return plan_of(without_contexts(*params), plan); });
}

}  // namespace

void softgpu::forget_peer_access(const Context& context) {
  const std::unique_lock lock(peer_access().mutex);
  std::erase_if(peer_access().enabled,
                [&](const auto& pair) { return pair.first == &context || pair.second == &context; });
}

SOFTGPU_API cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
  return with_device(device, [&](Driver& driver, Device&) -> CUresult {
    if (can == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (!driver.has_device(peer)) return CUDA_ERROR_INVALID_DEVICE;
    *can = device != peer ? 1 : 0;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attribute, CUdevice device,
                                    CUdevice peer) {
  return with_device(device, [&](Driver& driver, Device&) -> CUresult {
    if (!driver.has_device(peer) || device == peer) return CUDA_ERROR_INVALID_DEVICE;
    if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
      case CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED:
      case CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED:
      case CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED:
        *value = 1;
        return CUDA_SUCCESS;
      case CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK:  // all pairs are alike
      case CU_DEVICE_P2P_ATTRIBUTE_ONLY_PARTIAL_NATIVE_ATOMIC_SUPPORTED:
        *value = 0;
        return CUDA_SUCCESS;
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
  });
}

SOFTGPU_API cuCtxEnablePeerAccess(CUcontext handle, unsigned flags) {
  return with_peer(handle, [&](const Context& context, const Context& peer) -> CUresult {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (peer.device == context.device) return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    const std::unique_lock lock(peer_access().mutex);
    return peer_access().enabled.emplace(&context, &peer).second ? CUDA_SUCCESS
                                                                 : CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
  });
}

SOFTGPU_API cuCtxDisablePeerAccess(CUcontext handle) {
  return with_peer(handle, [](const Context& context, const Context& peer) -> CUresult {
    const std::unique_lock lock(peer_access().mutex);
    return peer_access().enabled.erase({&context, &peer}) != 0 ? CUDA_SUCCESS
                                                               : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
  });
}

SOFTGPU_API cuMemcpyPeer(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                         std::size_t n) {
  return copy_flat_peer(legacy_default, true, to, to_context, from, from_context, n);
}
SOFTGPU_API cuMemcpyPeer_ptds(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                              std::size_t n) {
  return copy_flat_peer(per_thread_default, true, to, to_context, from, from_context, n);
}
SOFTGPU_API cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                              std::size_t n, CUstream s) {
  return copy_flat_peer(s, false, to, to_context, from, from_context, n);
}
SOFTGPU_API cuMemcpyPeerAsync_ptsz(CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
                                   CUcontext from_context, std::size_t n, CUstream s) {
  return copy_flat_peer(per_thread(s), false, to, to_context, from, from_context, n);
}

SOFTGPU_API cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER* p) {
  return copy_3d_peer(legacy_default, true, p);
}
SOFTGPU_API cuMemcpy3DPeer_ptds(const CUDA_MEMCPY3D_PEER* p) {
  return copy_3d_peer(per_thread_default, true, p);
}
SOFTGPU_API cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER* p, CUstream s) {
  return copy_3d_peer(s, false, p);
}
SOFTGPU_API cuMemcpy3DPeerAsync_ptsz(const CUDA_MEMCPY3D_PEER* p, CUstream s) {
  return copy_3d_peer(per_thread(s), false, p);
}
