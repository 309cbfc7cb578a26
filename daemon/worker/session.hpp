// One client's session in the worker: takes records from the channel, checks them, and calls the driver. The
// dispatcher is one thread; what must wait is left to Completions, so that no call holds up another thread's.
//
// Everything that comes out of the channel is hostile: records were copied before they get here, handles are
// looked up, arena offsets and addresses are checked before use.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/worker/accounting.hpp"
#include "daemon/worker/allocation_table.hpp"
#include "daemon/worker/client_contexts.hpp"
#include "daemon/worker/client_errors.hpp"
#include "daemon/worker/command_timers.hpp"
#include "daemon/worker/completions.hpp"
#include "daemon/worker/early_questions.hpp"
#include "daemon/worker/estimates.hpp"
#include "daemon/worker/foreign_waits.hpp"
#include "daemon/worker/graph_objects.hpp"
#include "daemon/worker/green_resources.hpp"
#include "daemon/worker/handle_table.hpp"
#include "daemon/worker/host_calls.hpp"
#include "daemon/worker/image_charges.hpp"
#include "daemon/worker/ipc_link.hpp"
#include "daemon/worker/jit_state.hpp"
#include "daemon/worker/later_calls.hpp"
#include "daemon/worker/matrix_executor.hpp"
#include "daemon/worker/node_params.hpp"
#include "daemon/worker/preemption.hpp"
#include "daemon/worker/queue_thread.hpp"
#include "daemon/worker/reply_buffer.hpp"
#include "daemon/worker/residence.hpp"
#include "daemon/worker/session_parts.hpp"
#include "daemon/worker/shared_objects.hpp"
#include "daemon/worker/stream_ledger.hpp"
#include "protocol/channel.hpp"
#include "protocol/futex.hpp"
#include "protocol/gate.hpp"
#include "protocol/handle.hpp"
#include "protocol/record.hpp"
#include "protocol/ring.hpp"
#include "protocol/unique_fd.hpp"
#include "protocol/upcall.hpp"
#include "vgpu/driver_table.hpp"
#include "vgpu/records.hpp"

namespace vgpu::worker {

/// What a handler returns that called Session::defer(): the reply is sent later, whatever is returned now.
inline constexpr CUresult deferred = CUDA_SUCCESS;

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
  /// The device of the context that the record runs in. What a client says of its k-th device it says in the
  /// context of index k, the primary one of that.
  CUdevice device() const { return contexts_.here().device; }
  CUresult unsupported(std::uint16_t call);

  bool can_bind(HandleKind kind, std::uint64_t handle) const { return handles_.can_bind(kind, handle); }
  template <class T>
  void bind(HandleKind kind, std::uint64_t handle, T value, std::uint64_t owner = 0) {
    if constexpr (std::is_same_v<T, CUgraph>) forget_names_of(value);
    if constexpr (std::is_pointer_v<T>) {
      handles_.bind(kind, handle, reinterpret_cast<std::uint64_t>(value), owner, contexts_.index());
    } else {
      handles_.bind(kind, handle, static_cast<std::uint64_t>(value), owner, contexts_.index());
    }
    if (kind == HandleKind::graph_node) note_node(handle);
  }
  /// A graph that ended with its parent leaves names behind, which must not be taken for those of a new one.
  void forget_names_of(CUgraph graph) {
    handles_.forget_if(HandleKind::graph, [graph](std::uint64_t value, std::uint64_t, std::uint16_t) {
      return value == reinterpret_cast<std::uint64_t>(graph);
    });
  }
  /// The module or library with which an object that comes out of `handle` ends.
  std::uint64_t owner_of(HandleKind kind, std::uint64_t handle) const {
    const std::uint64_t owner = handles_.owner(kind, handle);
    return owner != 0 ? owner : handle;
  }
  /// The object of the driver's that a handle names; false when it names none of this type.
  template <class T>
  bool resolve(std::uint64_t handle, T& out) const {
    return handles_.resolve(handle, out);
  }

  /// The client's numbers of devices to the driver's and back.
  template <class T>
  void to_driver(T& place) const {
    contexts_.to_driver(place);
  }
  void to_client(CUmemAllocationProp& prop) const { contexts_.to_client(prop); }

  /// Says that `stream` has work which a later synchronisation must wait for, and which uses the device for
  /// `expected_ns` at most; no_limit_ns: of unknown length.
  void note_stream_work(CUstream stream, std::uint64_t expected_ns = no_limit_ns);
  /// Says that what `stream` got last may wait for the host or for another client, or that a graph may if it
  /// is captured.
  void note_held(CUstream stream);

  // CUresult handle(record, reply, tail) for each call that protocol/calls.tsv leaves to a worker function
  // made by hand; each is defined in the session_*.cpp of its subject.
#include "vgpu/worker_handlers.inc"

 private:
  /// What a library was loaded from, until it is unloaded, of those that may have variables: a reset needs
  /// it.
  struct LibraryImage {
    std::shared_ptr<const std::vector<std::byte>> bytes;
    bool variables_known = false;  ///< the client has asked where one lies
  };
  /// A waited call that is answered later.
  struct PendingReply {
    std::uint32_t reference = 0;
    std::uint64_t taken_ns = 0;
    bool synchronises = false;
  };

  // session.cpp
  void dispatch(std::span<const std::byte> bytes, ReplyBuffer& out, CUresult& result);
  bool peers_alive();
  /// The account of the device of the context that the record runs in, and its place among the client's.
  Accounting& here() const {
    return *contexts_.here().accounting;
  }
  std::size_t place() const {
    return contexts_.place_of(contexts_.here());
  }
  bool any_bounded() const;
  PendingReply defer();
  void answer(const PendingReply& pending, CUresult result, std::span<const std::byte> payload = {});
  bool capturing(CUstream stream) const;
  /// The graph into which the stream captures; none when it does not, or the capture has failed.
  std::optional<GraphObjects::Name> captured_into(CUstream stream) const;
  /// Where there are few CPUs: says which one this is; true when a thread of the client waits on the same.
  bool waiter_here();
  /// For how long the dispatcher looks at an empty ring before it sleeps; `pending`: something is to be
  /// answered, `soon`: by poll_soon().
  std::uint64_t spin_time(bool pending, bool soon, std::uint64_t now);
  /// The most of it while nothing is pending; as long as the client's sleeps turn out to be shorter.
  std::uint64_t longest_idle_spin() const;
  /// Leaves what is pending to waiter threads. True when there is work that nobody waits for, and none of
  /// them looks after it: look_for_ends() must be called now and then.
  bool prepare_sleep();
  /// Asks the streams with work that nobody waits for whether it has ended.
  void look_for_ends();

  // session_waits.cpp: what is to happen when work has ended.
  CUresult after_stream(const StreamKey& key, std::function<void(CUresult)> done);
  CUresult after_stream(CUstream stream, std::function<void(CUresult)> done) {
    return after_stream(contexts_.key_of(stream), std::move(done));
  }
  /// The same for a wait that probably ends before the client's next record: the stream is asked, and an
  /// event is recorded only when another record or a sleep comes first. `print`: the driver is to write out
  /// what kernels printed.
  CUresult after_stream_soon(const StreamKey& key, std::function<void(CUresult)> done, bool print);
  /// Asks the stream of after_stream_soon(); true while that wait goes on.
  bool poll_soon();
  /// Turns it into one by an event.
  void settle_soon();
  void fence_busy_streams();
  /// True when no work of the client's is unfinished: a copy by the driver's blocking call comes in order.
  bool nothing_under_way();
  using Scope = StreamLedger::Scope;
  /// Runs `done` when all work submitted so far has finished: at once when there is none.
  void when_all_done(std::function<void(CUresult)> done, Scope scope = {});
  /// The same for a `done` that may wait for the device, or that is to come after such ones. On the software
  /// GPU it runs in a thread of its own, unless nothing is under way. A GPU's driver lets no other thread in
  /// while it waits for all that was submitted, so there later records are held back until it is done.
  void when_all_done_apart(std::function<void(CUresult)> done, Scope scope = {});
  /// Takes no records until as many calls of release_records(), from any thread.
  void hold_records() {
    held_.fetch_add(1);
  }
  void release_records();

  // session_stream.cpp
  /// Asks the driver about a stream of the current context, and notes the end of its work.
  CUresult query_stream(CUstream stream);
  /// Before a stream with unfinished work is destroyed.
  void orphan_work(const StreamKey& stream);
  /// Whether the next record may be run while awaited_ is set. When the stream takes long, records are held
  /// back until an event has told of its end.
  enum class NextRecord : std::uint8_t { none, waits, may_run };
  NextRecord behind_awaited();

  // session_context.cpp
  void forget_foreign_waits(std::uint16_t context);
  /// Forgets what lives in a context, and answers with destroy() once its work has ended.
  CUresult end_context(std::uint16_t index, std::function<CUresult()> destroy);

  // session_reset.cpp
  /// Destroys what the client made in the primary context, libraries excepted.
  void empty_primary_context();
  /// The same in one of several contexts. Graphs, which may hold nodes of others, stay.
  void empty_one_context(std::uint16_t index);
  void free_allocations(const std::function<bool(const Allocation&)>& chosen);
  /// Gives the variables of the client's libraries their first values in the current context.
  CUresult renew_variables();
  CUresult renew_variables(CUlibrary library, std::span<const std::byte> image);
  /// Whether the client's code may have changed a library's variables.
  bool library_in_use(std::uint64_t handle, const LibraryImage& image) const;

  // session_schedule.cpp: admission and accounting around a command that takes device time.
  /// What a rate limit counts.
  struct Cost {
    std::uint64_t launches = 0;
    std::uint64_t bytes = 0;  // to or from the host
  };
  static Prediction predict_copy(std::uint64_t bytes);
  /// Waits until the command may be submitted.
  void admit(CUstream stream, const Prediction& prediction, const Cost& cost);
  /// The same for a command of `kind`, of which more may be known when it may be submitted.
  Prediction admit_kind(CUstream stream, std::uint64_t kind, const Cost& cost);
  void admit_copy(CUstream stream, std::uint64_t bytes, bool host) {
    admit(stream, predict_copy(bytes), {0, host ? bytes : 0});
  }
  /// It was.
  void submitted_command(CUstream stream, const Prediction& prediction);
  void admit_once(OwnDevice& device, const StreamKey& stream, const Prediction& prediction, const Cost& cost);
  /// For how long a command of `next` waits at the gate for work in flight of which none ends; UINT64_MAX:
  /// for ever.
  std::uint64_t gate_patience(const OwnDevice& device, const StreamKey& next);
  void throttle(OwnDevice& device, const Cost& cost);
  /// Answers what the client asks behind the command that waits now, as far as that need not wait with it.
  void answer_early();
  /// Sleeps while `word` holds `value`, until there is something for answer_early(), or `timeout_ns` passed.
  void sleep_at_gate(const std::atomic<std::uint32_t>& word, std::uint32_t value, std::uint64_t timeout_ns);
  /// Counts what was submitted while nothing was bounded as one batch in flight.
  void bound_earlier_work(OwnDevice& device);
  /// After what begin_timing() was called before.
  void end_timing(const CommandTimers::Started& began, CUstream stream, const Prediction& prediction);
  /// Before a command that may be one to be timed. `may_hold`: it is one that the driver sends at once.
  CommandTimers::Started begin_timing(CUstream stream, const Prediction& prediction, bool may_hold = false);
  /// The priority that the driver is told for a stream of a client of this class.
  int stream_priority(int wanted) const;

  // session_residence.cpp: memory that can be moved out, where the broker says so.
  void begin_residence();
  /// Waits until nothing of the client's is under way; false when that takes longer, or it must not be moved.
  bool quiesce(std::uint64_t patience_ns);
  /// Moves the client's memory out if the broker has ordered it.
  void obey_order();
  /// Asks for `more` than what the client holds and waits for the answer, during which it may be moved out.
  /// False: it cannot have that. `enough`, unless 0: with so much more granted it need not wait for the rest.
  bool await_room(std::uint64_t more, bool fixed, bool short_of, std::uint64_t enough = 0);
  /// Counts `bytes` as lying on the device, once they may. `short_of`: they might, but the device has not got
  /// them.
  bool take_room(std::uint64_t bytes, bool fixed, bool short_of);
  /// Brings the client's memory back to the device.
  CUresult bring_back();
  /// The same, if this call needs it there.
  CUresult need_memory(std::uint16_t call);
  /// Its memory cannot be moved any more: others use it, or its work waits for others'.
  void stay_on_device();
  /// Whether an allocation made now can be moved: those of a context of the program's own end with it.
  bool movable_here() const {
    return residence_ != nullptr && contexts_.index() == 0;
  }
  CUresult allocate_movable(std::uint64_t bytes, CUdeviceptr& pointer);
  /// Frees an allocation of any kind, and its charge.
  CUresult free_device_memory(CUdeviceptr pointer);
  /// What the client could have on the device besides what it holds.
  std::uint64_t room_left() const;

  // Helpers of the handlers.
  std::span<std::byte> arena_bytes(const ArenaSpan& span) const;
  bool device_range(std::uint64_t address, std::uint64_t bytes) const;
  bool reachable(std::uint64_t address, std::uint64_t bytes) const;
  /// The resource as the driver is to see it: handles resolved, memory checked.
  CUresult fix_up_resource(CUDA_RESOURCE_DESC& resource) const;
  UniqueFd take_host_fd(std::uint64_t token, std::uint64_t bytes);
  /// The client's image, checked. `variables`, unless null: whether it may declare such as outlive kernels.
  CUresult fetch_image(std::uint32_t source, std::uint64_t token, const ArenaSpan& span,
                       std::vector<std::byte>& image, bool* variables = nullptr);
  /// Kernels of this image are loaded: what they may write is to be fetched from now on.
  void note_text(std::span<const std::byte> image, bool* variables);
  /// Loads a library for the client's `handle`; its image is kept where it may have `variables`.
  CUresult load_library(std::uint64_t handle, std::vector<std::byte> image, bool variables, JitState& jit);
  /// Whether kernels may have written something that the driver still has when work ended so.
  bool something_written(CUresult result) const {
    return result == CUDA_SUCCESS ? prints_.load() : ClientErrors::is_sticky(result);
  }
  /// A module or library was loaded that `charge`, if not null, is for.
  void note_image(std::uint64_t handle, ImageCharges::Held charge);
  /// What was charged for modules whose handles name nothing any more.
  std::vector<ImageCharges::Held> take_lost_charges();
  CUresult describe_function(CUfunction function, CUkernel kernel, const ArenaSpan& span);
  /// Where a variable of a module or library lies, by the driver's `find`.
  template <class Image, class Record, class Reply>
  CUresult find_variable(CUresult (*find)(CUdeviceptr*, std::size_t*, Image, const char*),
                         const Record& record, std::uint64_t handle, Reply& reply, Tail tail);
  /// `of`: charged to whom, in which context. `graph`: a node of it allocates. Without one from any thread.
  CUresult allocate(const std::function<CUresult(CUdeviceptr&)>& call, std::uint64_t bytes,
                    CUdeviceptr& pointer, const Allocation& of,
                    const std::optional<GraphObjects::Name>& graph = std::nullopt);
  /// Memory on the current context's device, made in that context.
  Allocation allocation_here() const {
    return {0, &here(), contexts_.index()};
  }
  /// The same on a device that need not be the current one.
  Allocation allocation_on(const OwnDevice& device) const {
    const auto primary = static_cast<std::uint16_t>(contexts_.place_of(device));
    return {0, device.accounting, &device == &contexts_.here() ? contexts_.index() : primary};
  }
  /// Frees it once what runs now has ended.
  void free_after_work(CUdeviceptr pointer, const PendingReply& pending);
  CUresult fix_up_copy(CUDA_MEMCPY3D& copy, const ArenaSpan& src_block, const ArenaSpan& dst_block);
  HostCalls::Call* host_call(CUstream stream, const Upcall& upcall);
  void note_node(std::uint64_t handle);
  /// The client's handle for a node; one that is new to it gets `fresh`.
  CUresult name_node(CUgraphNode node, std::uint64_t fresh, std::uint64_t& handle);
  /// Binds a graph that is being, or was, captured to the client's handle `fresh`, which `handle` is then.
  void name_captured(CUgraph graph, std::uint64_t fresh, std::uint64_t& handle);
  CUresult write_nodes(const std::vector<CUgraphNode>& nodes, const ArenaSpan& span);
  CUresult write_edges(const std::vector<CUgraphEdgeData>& edges, const ArenaSpan& nodes,
                       const ArenaSpan& span);
  CUresult read_dependencies(std::uint32_t count, Tail& tail, std::vector<CUgraphNode>& nodes) const;
  CUresult read_edges(bool present, std::size_t count, Tail& tail, std::vector<CUgraphEdgeData>& edges) const;
  template <class Record, class Reply, class List>
  CUresult neighbours(const Record& record, Reply& reply, List list);
  template <class Record, class Change>
  CUresult change_edges(const Record& record, Tail tail, Change change);
  CUresult read_node(std::uint32_t type, Tail tail, NodeParams& out);
  CUresult kernel_node(NodeParams& out, Tail& tail) const;
  CUresult memset_node(NodeParams& out, Tail& tail) const;
  CUresult write_node(CUgraphNode node, CUgraphNodeType type, std::uint64_t fresh,
                      std::vector<std::byte>& out);
  CUresult write_kernel_node(CUgraphNode node, std::vector<std::byte>& out);
  std::uint64_t handle_of_function(CUfunction function, CUkernel kernel) const;
  /// A graph has got this call, if it is one.
  void keep(std::unique_ptr<HostCalls::Call> call);
  void put_name(Tail tail, std::string& name) const;
  void write_names(const std::vector<const char*>& names, const ArenaSpan& span, std::uint64_t& bytes);

  SessionParts parts_;
  const DriverTable& driver_;
  Channel& channel_;
  Accounting& accounting_;  // of the first device, whose page also holds what belongs to no device
  ClientContexts contexts_;
  RingConsumer ring_;
  EarlyQuestions early_;
  const bool spin_long_;             // a GPU, on a machine with CPUs to spare
  SpinTime idle_spin_;               // of the dispatcher at an empty ring
  SpinTime wait_spin_;               // while the client waits for a stream
  Preemption preemption_;            // of the dispatcher
  std::atomic<bool> prints_{false};  // kernels were loaded that may print
  bool asserts_ = false;             // and such whose assertions may fail
  HandleTable handles_;
  ClientErrors errors_;
  StreamLedger ledger_;
  Completions completions_;
  std::atomic<bool> stop_{false};
  HostCalls host_calls_;

  // The record being run.
  PendingReply current_;
  std::span<const std::byte> running_;  // the record that is being run
  bool deferred_ = false;

  std::size_t captures_ = 0;
  std::vector<std::pair<std::uint64_t, UniqueFd>> host_fds_;
  std::map<std::uint64_t, std::unique_ptr<Linker>> linkers_;  // by client handle
  GreenResources resources_;
  MatrixExecutor matrices_{parts_.library};

  /// The wait of after_stream_soon().
  struct SoonWait {
    StreamLedger::Mark fence;
    std::function<void(CUresult)> done;
    bool print = false;
  };
  std::optional<SoonWait> soon_;
  /// A stream whose copies to the device are to have happened before what comes behind them.
  struct AwaitedStream {
    std::uint64_t handle = 0;
    CUstream stream = nullptr;
    std::uint16_t context = 0;
    std::uint64_t asked_since = 0;  // 0: not asked yet
  };
  std::optional<AwaitedStream> awaited_;
  bool software_ = false;  // the device is the software GPU, whose copies this machine's CPUs make
  std::thread::id dispatcher_;

  // What other clients may open, and what was opened of theirs.
  IpcLink ipc_;
  ForeignWaits foreign_waits_{driver_, ipc_};
  AllocationTable allocations_{ipc_};
  SharedObjects shared_{ipc_};
  // By client handle, and by the address where it is mapped. Dispatcher only.
  std::unordered_map<std::uint64_t, std::shared_ptr<Charge>> vmm_;
  std::map<std::uint64_t, std::shared_ptr<Charge>> mapped_;
  std::unordered_map<std::uint64_t, std::shared_ptr<Charge>> arrays_;  // by client handle. Dispatcher only
  ImageCharges image_charges_{parts_};
  std::unordered_map<std::uint64_t, LibraryImage> library_images_;  // by client handle. Dispatcher only
  std::vector<std::byte> image_parts_;  // of the next image, as far as it has come (image_part)
  std::unordered_map<std::uint64_t, OwnDevice*> pools_;               // whose memory they are; the same
  std::unordered_map<std::uint64_t, std::uint64_t> told_thresholds_;  // of pools under a quota
  // The client's objects, behind the index of their context, which alone knows them. Dispatcher only.
  std::set<std::pair<std::uint16_t, std::uint64_t>> textures_, surfaces_;
  // By context and limit: what the client is charged for, and the value before it set one. Dispatcher only.
  std::map<std::pair<std::uint16_t, int>, std::shared_ptr<Charge>> limits_;
  std::map<std::pair<std::uint16_t, int>, std::uint64_t> usual_limits_;
  std::atomic<std::size_t> pending_frees_{0};
  GraphObjects graphs_{allocations_};
  bool graphs_hold_ = false;  ///< a graph may wait for the host or for another client; dispatcher only

  Estimates estimates_;
  CommandTimers timers_{driver_, completions_, estimates_,
                        parts_.library != nullptr ? parts_.library->event_gap() : 0,
                        parts_.library != nullptr ? parts_.library->hold() : nullptr};
  std::unique_ptr<Residence> residence_;  // null: nothing is ever moved
  LaterCalls later_{[this] { RingConsumer::wake(channel_); }};

  // Driver calls that may wait for the device (a free waits for all that runs, also for what was submitted
  // after the client had freed): the dispatcher, on whose next record the device may be waiting, goes on.
  QueueThread blocking_;
  // Records are not taken until it is 0: when_all_done_apart(), behind_awaited().
  std::atomic<std::uint32_t> held_{0};
};

}  // namespace vgpu::worker
