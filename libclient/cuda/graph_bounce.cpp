#include "libclient/cuda/graph_bounce.hpp"

#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "libclient/cuda/copy.hpp"
#include "libclient/cuda/host_memory.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

// Bounces that no graph uses any more. Their memory stays mapped: a destructor, which may call nothing of
// CUDA, puts them here.
struct Idle {
  std::mutex mutex;
  std::vector<std::unique_ptr<Bounce>> bounces;
};

Idle& idle() {
  static auto* const instance = new Idle;  // destructors of graphs may run while the process exits
  return *instance;
}

void CUDA_CB retire(void* bounce) {
  const std::lock_guard lock(idle().mutex);
  idle().bounces.emplace_back(static_cast<Bounce*>(bounce));
}

std::unique_ptr<Bounce> take_idle(std::size_t bytes) {
  const std::lock_guard lock(idle().mutex);
  auto& bounces = idle().bounces;
  for (auto it = bounces.begin(); it != bounces.end(); ++it) {
    if ((*it)->room < bytes || (*it)->room / 4 > bytes + (64 << 10)) continue;
    std::unique_ptr<Bounce> found = std::move(*it);
    bounces.erase(it);
    return found;
  }
  return nullptr;
}

template <class Move>
void for_each_row(const Bounce& bounce, Move move) {
  for (std::size_t slice = 0; slice < bounce.slices; ++slice) {
    for (std::size_t row = 0; row < bounce.rows; ++row)
      move(slice * bounce.slice_pitch + row * bounce.row_pitch, bounce.width);
  }
}

// The graph that a stream is captured into.
CUresult captured_graph(std::uint64_t stream, CUgraph& graph) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  const CUresult result =
      cuStreamGetCaptureInfo_v2(from_bits<CUstream>(stream), &status, nullptr, &graph, nullptr, nullptr);
  if (result != CUDA_SUCCESS) return result;
  return status == CU_STREAM_CAPTURE_STATUS_ACTIVE ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}

Bounce* flat_bounce(Call& call, std::uint64_t stream, const void* user, std::size_t bytes, CUresult& result) {
  CUgraph graph = nullptr;
  result = captured_graph(stream, graph);
  if (result != CUDA_SUCCESS) return nullptr;
  Bounce* const bounce = make_bounce(call, graph, bytes, result);
  if (bounce == nullptr) return nullptr;
  bounce->user = static_cast<std::byte*>(const_cast<void*>(user));
  bounce->width = bytes;
  bounce->rows = bounce->slices = 1;
  bounce->row_pitch = bounce->slice_pitch = bytes;
  return bounce;
}

}  // namespace

Bounce* make_bounce(Call& call, CUgraph graph, std::size_t bytes, CUresult& result) {
  std::unique_ptr<Bounce> bounce = take_idle(bytes);
  if (bounce == nullptr) {
    bounce = std::make_unique<Bounce>();
    void* pinned = nullptr;
    result = allocate_host_region(call, MemoryKind::pinned, bytes, CU_MEMHOSTALLOC_PORTABLE, &pinned);
    if (result != CUDA_SUCCESS) return nullptr;
    bounce->pinned = static_cast<std::byte*>(pinned);
    bounce->room = bytes;
  }
  CUuserObject object = nullptr;
  result = cuUserObjectCreate(&object, bounce.get(), &retire, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC);
  if (result != CUDA_SUCCESS) {
    retire(bounce.release());
    return nullptr;
  }
  // From here on the object's destructor owns it.
  Bounce* const made = bounce.release();
  result = cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE);
  if (result == CUDA_SUCCESS) {
    // The graph alone holds it now.
    call.process().user_objects.destroy(bits(object));
    return made;
  }
  static_cast<void>(cuUserObjectRelease(object, 1));
  return nullptr;
}

void CUDA_CB fill_bounce(void* argument) {
  const Bounce& bounce = *static_cast<const Bounce*>(argument);
  for_each_row(bounce, [&](std::size_t at, std::size_t bytes) {
    std::memcpy(bounce.pinned + at, bounce.user + at, bytes);
  });
}

void CUDA_CB drain_bounce(void* argument) {
  const Bounce& bounce = *static_cast<const Bounce*>(argument);
  for_each_row(bounce, [&](std::size_t at, std::size_t bytes) {
    std::memcpy(bounce.user + at, bounce.pinned + at, bytes);
  });
}

CUresult capturing(Call& call, std::uint64_t stream, bool& active) {
  active = false;
  if (call.process().captures.load(std::memory_order_relaxed) == 0) return CUDA_SUCCESS;
  record::cuStreamIsCapturing record;
  record.stream = stream;
  reply::cuStreamIsCapturing reply;
  const CUresult result = call.ask(record, reply);
  active = result == CUDA_SUCCESS && reply.status != CU_STREAM_CAPTURE_STATUS_NONE;
  return result;
}

CUresult captured_upload(Call& call, CUdeviceptr target, const void* source, std::size_t bytes,
                         std::uint64_t stream) {
  CUresult result = CUDA_SUCCESS;
  Bounce* const bounce = flat_bounce(call, stream, source, bytes, result);
  if (bounce == nullptr) return result;
  result = cuLaunchHostFunc(from_bits<CUstream>(stream), &fill_bounce, bounce);
  if (result != CUDA_SUCCESS) return result;
  return copy_within(call, target, bits(bounce->pinned), bytes, stream, CopyMode::asynchronous);
}

CUresult captured_download(Call& call, void* target, CUdeviceptr source, std::size_t bytes,
                           std::uint64_t stream) {
  CUresult result = CUDA_SUCCESS;
  Bounce* const bounce = flat_bounce(call, stream, target, bytes, result);
  if (bounce == nullptr) return result;
  result = copy_within(call, bits(bounce->pinned), source, bytes, stream, CopyMode::asynchronous);
  if (result != CUDA_SUCCESS) return result;
  return cuLaunchHostFunc(from_bits<CUstream>(stream), &drain_bounce, bounce);
}

}  // namespace vgpu::client
