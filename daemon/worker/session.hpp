// One client's session in the worker: takes records from the channel, checks them, and calls the driver. The
// dispatcher is one thread; what must wait is left to Completions, so that no call holds up another thread's.
//
// Everything that comes out of the channel is hostile: records were copied before they get here, handles are
// looked up, arena offsets and addresses are checked before use.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "daemon/worker/accounting.hpp"
#include "daemon/worker/completions.hpp"
#include "daemon/worker/console.hpp"
#include "daemon/worker/driver_library.hpp"
#include "daemon/worker/handle_table.hpp"
#include "daemon/worker/host_regions.hpp"
#include "protocol/channel.hpp"
#include "protocol/ring.hpp"
#include "protocol/unique_fd.hpp"
#include "protocol/upcall.hpp"
#include "vgpu/driver_table.hpp"
#include "vgpu/records.hpp"

namespace vgpu::worker {

/// What a handler returns that called Session::defer(): the reply is sent later, whatever is returned now.
inline constexpr CUresult deferred = CUDA_SUCCESS;

/// The reply's payload while a record is being run.
class ReplyBuffer {
 public:
  template <class Reply>
  void put(const Reply& reply) {
    if constexpr (!std::is_empty_v<Reply>) {
      static_assert(sizeof(Reply) <= reply_payload_bytes);
      std::memcpy(bytes_, &reply, sizeof reply);
      size_ = sizeof reply;
    }
  }
  std::span<const std::byte> bytes() const { return {bytes_, size_}; }
  void clear() { size_ = 0; }

 private:
  std::byte bytes_[reply_payload_bytes];
  std::size_t size_ = 0;
};

/// What the session works with. All outlive it.
struct SessionParts {
  const DriverTable& driver;
  const DriverLibrary* library = nullptr;  ///< nullptr in tests with a table of their own
  CUdevice device = 0;
  CUcontext context = nullptr;
  Channel& channel;
  Accounting& accounting;
  HostRegions& regions;
  Console* console = nullptr;  ///< where the driver prints to; nullptr: not collected
  int direct_socket = -1;
  int broker_socket = -1;
  int memory_fd = -1;  ///< of a process in a VM: the VM's memory; host regions are parts of the arena
  std::uint64_t arena_offset = 0;  ///< of the arena in it
};

/// Why a session ended.
enum class SessionEnd { client_gone, broker_gone, corrupt_ring, stopped };

class Session {
 public:
  explicit Session(const SessionParts& parts);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Serves the client until it or the broker is gone.
  SessionEnd run();
  /// Makes run() return; from any thread.
  void stop();
  /// Runs one record as copied out of the ring: what run() does for each, and what the fuzzer calls.
  void run_record(std::span<const std::byte> bytes);

  // For the generated dispatch and the handlers.
  using Tail = std::span<const std::byte>;
  const DriverTable& driver() const { return driver_; }
  CUdevice device() const { return parts_.device; }
  CUresult unsupported(std::uint16_t call);

  bool can_bind(HandleKind kind, std::uint64_t handle) const { return handles_.can_bind(kind, handle); }
  template <class T>
  void bind(HandleKind kind, std::uint64_t handle, T value, std::uint64_t owner = 0) {
    if constexpr (std::is_pointer_v<T>) {
      handles_.bind(kind, handle, reinterpret_cast<std::uint64_t>(value), owner, context_index_);
    } else {
      handles_.bind(kind, handle, static_cast<std::uint64_t>(value), owner, context_index_);
    }
    if (kind == HandleKind::graph_node) note_node(handle);
  }
  /// The module or library with which an object that comes out of `handle` ends.
  std::uint64_t owner_of(HandleKind kind, std::uint64_t handle) const {
    const std::uint64_t owner = handles_.owner(kind, handle);
    return owner != 0 ? owner : handle;
  }
  bool resolve(std::uint64_t handle, CUstream& out) const;
  bool resolve(std::uint64_t handle,
               CUfunction& out) const;  ///< kernels too: the driver takes them as functions
  bool resolve(std::uint64_t handle, CUmemGenericAllocationHandle& out) const;
  bool resolve(std::uint64_t handle, CUevent& out) const { return look_up(HandleKind::event, handle, out); }
  bool resolve(std::uint64_t handle, CUmodule& out) const { return look_up(HandleKind::module, handle, out); }
  bool resolve(std::uint64_t handle, CUlibrary& out) const {
    return look_up(HandleKind::library, handle, out);
  }
  bool resolve(std::uint64_t handle, CUkernel& out) const { return look_up(HandleKind::kernel, handle, out); }
  bool resolve(std::uint64_t handle, CUgraph& out) const { return look_up(HandleKind::graph, handle, out); }
  bool resolve(std::uint64_t handle, CUgraphExec& out) const {
    return look_up(HandleKind::graph_exec, handle, out);
  }
  bool resolve(std::uint64_t handle, CUgraphNode& out) const {
    return look_up(HandleKind::graph_node, handle, out);
  }
  bool resolve(std::uint64_t handle, CUmemoryPool& out) const {
    return look_up(HandleKind::mem_pool, handle, out);
  }

  /// Says that `stream` has work which a later synchronisation must wait for.
  void note_stream_work(CUstream stream);

#define VGPU_HANDLER(call) CUresult handle(const record::call& record, reply::call& reply, Tail tail)
  // session_context.cpp
  VGPU_HANDLER(cuDevicePrimaryCtxReset_v2);
  VGPU_HANDLER(cuCtxCreate_v4);
  VGPU_HANDLER(cuCtxDestroy_v2);
  VGPU_HANDLER(cuCtxSynchronize);
  // session_module.cpp
  VGPU_HANDLER(cuModuleLoadData);
  VGPU_HANDLER(cuModuleUnload);
  VGPU_HANDLER(cuModuleGetFunction);
  VGPU_HANDLER(cuModuleGetGlobal_v2);
  VGPU_HANDLER(cuLibraryLoadData);
  VGPU_HANDLER(cuLibraryUnload);
  VGPU_HANDLER(cuLibraryGetKernel);
  VGPU_HANDLER(cuLibraryGetGlobal);
  VGPU_HANDLER(cuLibraryGetManaged);
  // session_launch.cpp
  VGPU_HANDLER(cuLaunchKernel);
  VGPU_HANDLER(cuGraphLaunch);
  VGPU_HANDLER(cuLaunchHostFunc);
  VGPU_HANDLER(cuStreamAddCallback);
  VGPU_HANDLER(cuOccupancyMaxActiveClusters);
  VGPU_HANDLER(cuOccupancyMaxPotentialClusterSize);
  VGPU_HANDLER(extension_blas);
  // session_memory.cpp
  VGPU_HANDLER(cuMemGetInfo_v2);
  VGPU_HANDLER(cuMemAlloc_v2);
  VGPU_HANDLER(cuMemAllocPitch_v2);
  VGPU_HANDLER(cuMemFree_v2);
  VGPU_HANDLER(host_map);
  VGPU_HANDLER(host_unmap);
  VGPU_HANDLER(cuMemAllocAsync);
  VGPU_HANDLER(cuMemAllocFromPoolAsync);
  VGPU_HANDLER(cuMemFreeAsync);
  VGPU_HANDLER(cuMemPoolDestroy);
  VGPU_HANDLER(cuMemPoolSetAttribute);
  VGPU_HANDLER(cuMemPoolGetAttribute);
  VGPU_HANDLER(cuMemPoolSetAccess);
  VGPU_HANDLER(cuMemPoolGetAccess);
  VGPU_HANDLER(cuMemCreate);
  VGPU_HANDLER(cuMemRelease);
  VGPU_HANDLER(cuMemMap);
  VGPU_HANDLER(cuMemUnmap);
  VGPU_HANDLER(cuMemSetAccess);
  VGPU_HANDLER(cuPointerGetAttribute);
  VGPU_HANDLER(cuMemAdvise_v2);
  VGPU_HANDLER(cuMemPrefetchAsync_v2);
  // session_copy.cpp
  VGPU_HANDLER(copy_to_device_inline);
  VGPU_HANDLER(copy_to_device_block);
  VGPU_HANDLER(copy_from_device_block);
  VGPU_HANDLER(copy_3d);
  VGPU_HANDLER(cuMemcpyAsync);
  // session_stream.cpp
  VGPU_HANDLER(cuStreamCreate);
  VGPU_HANDLER(cuStreamDestroy_v2);
  VGPU_HANDLER(cuStreamSynchronize);
  VGPU_HANDLER(cuStreamQuery);
  VGPU_HANDLER(cuEventDestroy_v2);
  VGPU_HANDLER(cuEventQuery);
  VGPU_HANDLER(cuEventSynchronize);
  // session_graph.cpp
  VGPU_HANDLER(cuStreamBeginCapture_v2);
  VGPU_HANDLER(cuStreamEndCapture);
  VGPU_HANDLER(cuStreamGetCaptureInfo_v3);
  VGPU_HANDLER(cuStreamUpdateCaptureDependencies_v2);
  VGPU_HANDLER(cuGraphDestroy);
  VGPU_HANDLER(cuGraphExecDestroy);
  VGPU_HANDLER(cuGraphExecUpdate_v2);
  VGPU_HANDLER(cuGraphGetNodes);
  VGPU_HANDLER(cuGraphGetRootNodes);
  VGPU_HANDLER(cuGraphNodeGetDependencies_v2);
  VGPU_HANDLER(cuGraphDestroyNode);
  VGPU_HANDLER(cuGraphAddDependencies_v2);
  VGPU_HANDLER(cuGraphAddEmptyNode);
  VGPU_HANDLER(cuGraphAddKernelNode_v2);
  VGPU_HANDLER(cuGraphKernelNodeSetParams_v2);
  VGPU_HANDLER(cuGraphExecKernelNodeSetParams_v2);
  VGPU_HANDLER(cuGraphAddMemcpyNode);
  VGPU_HANDLER(cuGraphAddMemsetNode);
  VGPU_HANDLER(cuGraphAddHostNode);
  VGPU_HANDLER(cuGraphAddChildGraphNode);
  VGPU_HANDLER(client_refused);
#undef VGPU_HANDLER

 private:
  /// What is known of a stream's unfinished work.
  struct StreamWork {
    CUcontext context = nullptr;
    CUstream stream = nullptr;
    std::uint64_t submitted = 0;
    std::uint64_t fenced = 0;  // of `submitted`, what a completion will report
    bool dirty = false;
  };
  /// A waited call that is answered later.
  struct PendingReply {
    std::uint32_t reference = 0;
    std::uint64_t taken_ns = 0;
    bool synchronises = false;
  };
  /// A client's host function as the driver calls it.
  struct HostCall {
    Session* session;
    Upcall upcall;
    bool keep;  // captured into a graph: called at each replay
  };

  template <class T>
  bool look_up(HandleKind kind, std::uint64_t handle, T& out) const {
    const std::uint64_t* const value = handles_.find(kind, handle);
    if (value == nullptr) return false;
    out = reinterpret_cast<T>(*value);
    return true;
  }

  // session.cpp
  void dispatch(std::span<const std::byte> bytes, ReplyBuffer& out, CUresult& result);
  bool peers_alive();
  /// Where there are few CPUs: says which one this is; true when a thread of the client waits on the same.
  bool waiter_here();
  CUresult switch_context(std::uint16_t index);
  void note_result(CUresult result);
  void report_async(CUresult result);
  CUresult with_async_error(CUresult result, bool synchronises);
  PendingReply defer();
  void answer(const PendingReply& pending, CUresult result, std::span<const std::byte> payload = {});
  /// The stream as it is known here: its context, and nullptr for the legacy stream of the current one.
  using StreamKey = std::pair<CUcontext, CUstream>;
  StreamKey key_of(CUstream stream) const;
  std::shared_ptr<StreamWork> work_of(const StreamKey& key);
  void submitted_to(CUstream stream);
  void done_with(const std::shared_ptr<StreamWork>& work, std::uint64_t submitted);
  void fence_dirty_streams();
  CUresult after_stream(const StreamKey& key, std::function<void(CUresult)> done);
  /// The same for a wait that probably ends before the client's next record: the stream is asked, and an
  /// event is recorded only when another record or a sleep comes first. `print`: the driver is to write out
  /// what kernels printed.
  CUresult after_stream_soon(const StreamKey& key, std::function<void(CUresult)> done, bool print);
  /// Asks the stream of after_stream_soon(); true while that wait goes on.
  bool poll_soon();
  /// Turns it into one by an event.
  void settle_soon();
  /// True when no work of the client's is unfinished: a copy by the driver's blocking call comes in order.
  bool nothing_under_way();
  /// Tells the broker, before the dispatcher sleeps, if there is no work any more.
  void rest_if_done();
  CUresult after_stream(CUstream stream, std::function<void(CUresult)> done) {
    return after_stream(key_of(stream), std::move(done));
  }
  /// Destroys what the client made in the primary context, libraries excepted.
  void empty_primary_context();
  /// Runs `done` when all work submitted so far (in one context, or in all) has finished: at once when there
  /// is none.
  void when_all_done(std::function<void(CUresult)> done, CUcontext context = nullptr);
  bool capturing(CUstream stream) const;
  /// Admission and accounting around a command that takes device time.
  void admit(CUstream stream);
  void submitted_command(CUstream stream);

  // Helpers of the handlers.
  std::span<std::byte> arena_bytes(const ArenaSpan& span) const;
  bool device_range(std::uint64_t address, std::uint64_t bytes) const;
  bool reachable(std::uint64_t address, std::uint64_t bytes) const;
  UniqueFd take_host_fd(std::uint64_t token, std::uint64_t bytes);
  CUresult fetch_image(std::uint32_t source, std::uint64_t token, const ArenaSpan& span,
                       std::vector<std::byte>& image);
  CUresult describe_function(CUfunction function, CUkernel kernel, const ArenaSpan& span);
  CUresult allocate(const std::function<CUresult(CUdeviceptr&)>& call, std::uint64_t bytes,
                    CUdeviceptr& pointer);
  void note_allocation(CUdeviceptr pointer, std::uint64_t bytes);
  void release_allocation(CUdeviceptr pointer);
  CUresult fix_up_copy(CUDA_MEMCPY3D& copy, const ArenaSpan& src_block, const ArenaSpan& dst_block);
  void host_call(CUstream stream, const Upcall& upcall, HostCall*& out);
  static void CUDA_CB run_host_call(void* call);
  static void CUDA_CB run_stream_callback(CUstream stream, CUresult status, void* call);
  void note_node(std::uint64_t handle);
  CUresult write_nodes(const std::vector<CUgraphNode>& nodes, const ArenaSpan& span);
  CUresult read_dependencies(std::uint32_t count, Tail& tail, std::vector<CUgraphNode>& nodes) const;
  template <class Record>
  CUresult kernel_node_params(const Record& record, Tail tail, CUDA_KERNEL_NODE_PARAMS& params, void** extra,
                              std::size_t& size) const;
  void put_name(Tail tail, std::string& name) const;

  SessionParts parts_;
  const DriverTable& driver_;
  Channel& channel_;
  Accounting& accounting_;
  RingConsumer ring_;
  HandleTable handles_;
  Completions completions_;
  UpcallPoster upcalls_;
  std::atomic<bool> stop_{false};

  // The record being run.
  PendingReply current_;
  bool deferred_ = false;

  std::unordered_map<CUstream, CUcontext> stream_contexts_;
  std::vector<CUcontext> contexts_;  // by the client's index; 0: the primary context
  std::uint16_t context_index_ = 0;
  std::size_t captures_ = 0;
  std::unordered_map<std::uint64_t, std::uint64_t> nodes_;  // the driver's node -> the client's handle
  std::vector<std::pair<std::uint64_t, UniqueFd>> host_fds_;
  const void* blas_table_ = nullptr;

  std::mutex work_mutex_;  // the two below and all StreamWork
  std::map<StreamKey, std::shared_ptr<StreamWork>> work_;
  std::size_t dirty_streams_ = 0;

  /// The wait of after_stream_soon().
  struct SoonWait {
    std::shared_ptr<StreamWork> work;
    std::uint64_t submitted = 0;
    std::function<void(CUresult)> done;
    bool print = false;
  };
  std::optional<SoonWait> soon_;
  bool software_ = false;  // the device is the software GPU, whose copies this machine's CPUs make
  std::thread::id dispatcher_;

  mutable std::mutex memory_mutex_;
  std::map<std::uint64_t, std::uint64_t> allocations_;  // address -> bytes
  // By client handle, and by the address where it is mapped. Dispatcher only.
  std::unordered_map<std::uint64_t, std::shared_ptr<Charge>> vmm_;
  std::map<std::uint64_t, std::shared_ptr<Charge>> mapped_;
  std::atomic<std::size_t> pending_frees_{0};

  std::mutex host_calls_mutex_;
  std::deque<std::unique_ptr<HostCall>> kept_host_calls_;

  std::atomic<int> sticky_{0};
  std::atomic<int> async_error_{0};
};

}  // namespace vgpu::worker
