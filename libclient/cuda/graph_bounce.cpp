#include "libclient/cuda/graph_bounce.hpp"

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "libclient/cuda/copy.hpp"
#include "libclient/cuda/host_memory.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

// All bounces: those in use by the address of their pinned memory, and those that no graph uses any more. The
// latter's memory stays mapped: a destructor, which may call nothing of CUDA, puts them there.
struct Bounces {
  std::mutex mutex;
  std::map<std::uint64_t, const Bounce*> used;
  std::vector<std::unique_ptr<Bounce>> idle;
};

Bounces& all() {
  static auto* const instance = new Bounces;  // destructors of graphs may run while the process exits
  return *instance;
}

void CUDA_CB retire(void* bounce) {
  std::unique_ptr<Bounce> retired(static_cast<Bounce*>(bounce));
  const std::lock_guard lock(all().mutex);
  all().used.erase(bits(retired->pinned));
  all().idle.push_back(std::move(retired));
}

std::unique_ptr<Bounce> take_idle(std::size_t bytes) {
  const std::lock_guard lock(all().mutex);
  auto& bounces = all().idle;
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
  const Rows& rows = bounce.rows;
  for (std::size_t slice = 0; slice < rows.slices; ++slice) {
    for (std::size_t row = 0; row < rows.rows; ++row)
      move(rows.first + slice * rows.slice_pitch + row * rows.row_pitch, rows.width);
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
  const Rows rows{.width = bytes, .row_pitch = bytes, .slice_pitch = bytes};
  return make_bounce(call, graph, static_cast<std::byte*>(const_cast<void*>(user)), bytes, rows, result);
}

}  // namespace

bool same(const Rows& a, const Rows& b) {
  return a.first == b.first && a.width == b.width && a.rows == b.rows && a.slices == b.slices &&
         (a.rows == 1 || a.row_pitch == b.row_pitch) && (a.slices == 1 || a.slice_pitch == b.slice_pitch);
}

Bounce* make_bounce(Call& call, CUgraph graph, std::byte* user, std::size_t bytes, const Rows& rows,
                    CUresult& result) {
  std::unique_ptr<Bounce> bounce = take_idle(bytes);
  if (bounce == nullptr) {
    bounce = std::make_unique<Bounce>();
    void* pinned = nullptr;
    result = allocate_host_region(call, MemoryKind::pinned, bytes, CU_MEMHOSTALLOC_PORTABLE, &pinned);
    if (result != CUDA_SUCCESS) return nullptr;
    bounce->pinned = static_cast<std::byte*>(pinned);
    bounce->room = bytes;
  }
  bounce->user = user;
  bounce->rows = rows;
  CUuserObject object = nullptr;
  result = cuUserObjectCreate(&object, bounce.get(), &retire, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC);
  if (result != CUDA_SUCCESS) {
    retire(bounce.release());
    return nullptr;
  }
  // From here on the object's destructor owns it.
  Bounce* const made = bounce.release();
  {
    const std::lock_guard lock(all().mutex);
    all().used[bits(made->pinned)] = made;
  }
  result = cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE);
  if (result == CUDA_SUCCESS) {
    // The graph alone holds it now.
    call.process().user_objects.destroy(bits(object));
    return made;
  }
  static_cast<void>(cuUserObjectRelease(object, 1));
  return nullptr;
}

std::optional<Bounce> find_bounce(std::uint64_t pinned) {
  const std::lock_guard lock(all().mutex);
  const auto behind = all().used.upper_bound(pinned);
  if (behind == all().used.begin()) return std::nullopt;
  const auto& [base, bounce] = *std::prev(behind);
  if (pinned - base >= bounce->room) return std::nullopt;
  return *bounce;
}

void name_program_memory(CUDA_MEMCPY3D& copy) {
  const auto name = [](CUmemorytype type, std::uint64_t at, auto set) {
    if (type != CU_MEMORYTYPE_HOST && type != CU_MEMORYTYPE_UNIFIED) return;
    if (const auto bounce = find_bounce(at)) set(bits(bounce->user) + (at - bits(bounce->pinned)));
  };
  const bool source_unified = copy.srcMemoryType == CU_MEMORYTYPE_UNIFIED;
  name(copy.srcMemoryType, source_unified ? copy.srcDevice : bits(copy.srcHost), [&](std::uint64_t address) {
    source_unified ? void(copy.srcDevice = address) : void(copy.srcHost = from_bits<void*>(address));
  });
  const bool target_unified = copy.dstMemoryType == CU_MEMORYTYPE_UNIFIED;
  name(copy.dstMemoryType, target_unified ? copy.dstDevice : bits(copy.dstHost), [&](std::uint64_t address) {
    target_unified ? void(copy.dstDevice = address) : void(copy.dstHost = from_bits<void*>(address));
  });
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
