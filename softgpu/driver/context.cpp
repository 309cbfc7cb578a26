#include "softgpu/driver/context.hpp"

#include <algorithm>
#include <unordered_map>

#include "cudaabi/context_storage.hpp"
#include "softgpu/driver/array.hpp"
#include "softgpu/driver/driver.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/ipc.hpp"
#include "softgpu/driver/memory_pool.hpp"
#include "softgpu/driver/module.hpp"
#include "softgpu/driver/peer.hpp"

namespace softgpu {
namespace {

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

void append_pending(std::vector<OperationRef>& list, const OperationRef& operation) {
  if (operation != nullptr && !operation->done()) list.push_back(operation);
}

}  // namespace

std::size_t default_limit(CUlimit limit) {
  switch (limit) {
    case CU_LIMIT_STACK_SIZE:
      return 1024;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
      return std::size_t{1} << 20;
    case CU_LIMIT_MALLOC_HEAP_SIZE:
      return std::size_t{8} << 20;
    case CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH:
      return 2;
    case CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT:
      return 2048;
    case CU_LIMIT_MAX_L2_FETCH_GRANULARITY:
      return 64;
    default:
      return 0;
  }
}

Stream::Stream(Context& its_context, Kind its_kind, unsigned its_flags, int its_priority)
    : context(its_context), kind(its_kind), flags(its_flags), priority(its_priority), id(next_id()) {}

CUstream Stream::handle() {
  if (kind == Kind::legacy) return CU_STREAM_LEGACY;
  if (kind == Kind::per_thread) return CU_STREAM_PER_THREAD;
  return reinterpret_cast<CUstream>(this);
}

Event::Event(Context& its_context, unsigned its_flags) : context(its_context), flags(its_flags) {}

Context::Context(int its_device, bool is_primary, unsigned its_flags)
    : id(next_id()),
      device(its_device),
      primary(is_primary),
      flags(its_flags),
      alive(!is_primary),
      legacy_(std::make_shared<Stream>(*this, Stream::Kind::legacy, CU_STREAM_DEFAULT, 0)) {
  for (std::size_t limit = 0; limit < limits.size(); ++limit) {
    limits[limit].store(default_limit(static_cast<CUlimit>(limit)));
  }
}

void Context::fail(CUresult error) {
  int none = CUDA_SUCCESS;
  error_.compare_exchange_strong(none, error, std::memory_order_acq_rel);
}

std::shared_ptr<Stream> Context::create_stream(Stream::Kind kind, unsigned stream_flags, int priority) {
  auto stream = std::make_shared<Stream>(*this, kind, stream_flags, priority);
  const std::unique_lock lock(Driver::get().scheduler.mutex());
  streams_.push_back(stream);
  return stream;
}

std::shared_ptr<Stream> Context::per_thread_stream() {
  struct Own {
    std::uint64_t generation;
    std::shared_ptr<Stream> stream;
  };
  // Exit handlers may still ask when a thread's locals are gone.
  static constexpr auto gone = []() -> bool& {
    thread_local constinit bool value = false;
    return value;
  };
  if (gone()) return legacy_;
  struct Streams {
    std::unordered_map<std::uint64_t, Own> of_context;
    ~Streams() {
      gone() = true;
      for (auto& [context, own] : of_context) own.stream->context.forget_stream(*own.stream);
    }
  };
  thread_local Streams streams;
  const std::uint64_t generation = generation_.load(std::memory_order_acquire);
  auto [own, made] = streams.of_context.try_emplace(id, Own{generation, nullptr});
  if (made || own->second.generation != generation) {
    own->second = {generation, create_stream(Stream::Kind::per_thread, CU_STREAM_DEFAULT, 0)};
  }
  return own->second.stream;
}

void Context::forget_stream(const Stream& stream) {
  const std::unique_lock lock(Driver::get().scheduler.mutex());
  std::erase_if(orphans_, [](const OperationRef& operation) { return operation->done(); });
  append_pending(orphans_, stream.tail);
  std::erase_if(streams_, [&](const std::shared_ptr<Stream>& own) { return own.get() == &stream; });
}

std::vector<OperationRef> Context::predecessors_locked(const Stream& stream) const {
  std::vector<OperationRef> before;
  append_pending(before, stream.tail);
  if (stream.kind == Stream::Kind::legacy) {
    for (const auto& other : streams_) {
      if (other->blocking()) append_pending(before, other->tail);
    }
    for (const OperationRef& orphan : orphans_) append_pending(before, orphan);
  } else if (stream.blocking()) {
    append_pending(before, legacy_->tail);
  }
  return before;
}

void Context::submit_locked(Stream& stream, const OperationRef& operation, std::vector<OperationRef> also) {
  std::vector<OperationRef> before = predecessors_locked(stream);
  for (OperationRef& other : also) before.push_back(std::move(other));
  Driver::get().scheduler.submit_locked(operation, before);
  stream.tail = operation;
}

OperationRef Context::make_operation(const void* queue, std::shared_ptr<const Work> work) {
  const Lane lane = lane_of(*work);
  if (lane == Lane::none) return std::make_shared<Operation>(lane, queue, nullptr);
  return std::make_shared<Operation>(lane, queue,
                                     [this, work = std::move(work)] { return perform(*this, *work); });
}

OperationRef Context::submit(Stream& stream, Work work, std::vector<OperationRef> also) {
  OperationRef operation = make_operation(&stream, std::make_shared<const Work>(std::move(work)));
  const std::unique_lock lock(Driver::get().scheduler.mutex());
  submit_locked(stream, operation, std::move(also));
  return operation;
}

std::vector<OperationRef> Context::pending_locked() const {
  std::vector<OperationRef> pending;
  append_pending(pending, legacy_->tail);
  for (const auto& stream : streams_) append_pending(pending, stream->tail);
  for (const OperationRef& orphan : orphans_) append_pending(pending, orphan);
  return pending;
}

bool Context::idle() const {
  const std::unique_lock lock(Driver::get().scheduler.mutex());
  return pending_locked().empty();
}

void Context::synchronize() {
  Scheduler& scheduler = Driver::get().scheduler;
  std::vector<OperationRef> pending;
  {
    const std::unique_lock lock(scheduler.mutex());
    pending = pending_locked();
  }
  for (const OperationRef& operation : pending) scheduler.wait(operation, Scheduler::Help::any_queue);
}

void Context::reset() {
  Driver& driver = Driver::get();
  cancel.store(true);
  fail(CUDA_ERROR_CONTEXT_IS_DESTROYED);  // queued work is skipped
  synchronize();
  flush_printf();
  cudaabi::context_storage_drop(handle());
  abandon_captures(*this);
  const auto mine = [this](const auto& object) { return &object.context == this; };
  driver.graph_execs.remove_if(mine);
  driver.events.remove_if(mine);
  driver.streams.remove_if(mine);
  for (const auto& module :
       driver.modules.remove_if([this](const LoadedModule& m) { return m.context == this; })) {
    for (const auto& function : module->all_functions()) driver.functions.remove(function.get());
  }
  {
    const std::unique_lock lock(driver.scheduler.mutex());
    streams_.clear();
    orphans_.clear();
    legacy_->tail = nullptr;
    generation_.fetch_add(1);
  }
  drop_arrays(*this);
  forget_opened_memory(*this);
  forget_peer_access(*this);
  driver.memory.release_owner(this);
  for (std::size_t limit = 0; limit < limits.size(); ++limit) {
    limits[limit].store(default_limit(static_cast<CUlimit>(limit)));
  }
  cancel.store(false);
  error_.store(CUDA_SUCCESS, std::memory_order_release);
}

}  // namespace softgpu
