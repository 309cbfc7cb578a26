// Contexts: the primary one and those that a program makes itself.
#include <utility>

#include "daemon/worker/session.hpp"

namespace vgpu::worker {
namespace {
constexpr std::uint16_t max_contexts = 64;

template <class T>
void destroy_value(CUresult (*destroy)(T), std::uint64_t value) {
  destroy(reinterpret_cast<T>(value));
}
}  // namespace

CUresult Session::handle(const record::cuDevicePrimaryCtxReset_v2&, reply::cuDevicePrimaryCtxReset_v2&,
                         Tail) {
  // The worker keeps the context itself retained, ready for what comes next.
  empty_primary_context();
  return CUDA_SUCCESS;
}

void Session::empty_primary_context() {
  // With contexts of the program's own it is not known which objects belong to the primary one: they stay
  // until the end.
  for (std::size_t i = 1; i < contexts_.size(); ++i) {
    if (contexts_[i] != nullptr) return;
  }
  if (driver_.cuCtxSynchronize != nullptr) driver_.cuCtxSynchronize();
  const auto drop = [this](HandleKind kind, auto destroy) {
    if (destroy == nullptr) return;
    handles_.take_all(kind, [destroy](std::uint64_t value) { destroy_value(destroy, value); });
  };
  drop(HandleKind::graph_exec, driver_.cuGraphExecDestroy);
  drop(HandleKind::graph, driver_.cuGraphDestroy);
  drop(HandleKind::event, driver_.cuEventDestroy_v2);
  drop(HandleKind::stream, driver_.cuStreamDestroy_v2);
  drop(HandleKind::module, driver_.cuModuleUnload);
  // Their modules and graphs are gone; functions of libraries stay.
  handles_.forget_if(HandleKind::function, [](std::uint64_t, std::uint64_t owner, std::uint16_t) {
    return !Handle::is(owner, HandleKind::library);
  });
  handles_.forget_if(HandleKind::graph_node,
                     [](std::uint64_t, std::uint64_t, std::uint16_t) { return true; });
  captures_ = 0;
  nodes_.clear();
  stream_contexts_.clear();
  {
    const std::lock_guard lock(work_mutex_);
    for (const auto& [key, work] : work_) {
      work->dirty = false;
      release_batch(std::exchange(work->open, {}));
    }
    work_.clear();
    if (dirty_streams_ != 0) accounting_.work_ended();
    dirty_streams_ = 0;
  }
  std::vector<std::uint64_t> pointers;
  {
    const std::lock_guard lock(memory_mutex_);
    for (const auto& [pointer, bytes] : allocations_) pointers.push_back(pointer);
  }
  for (const std::uint64_t pointer : pointers) {
    if (driver_.cuMemFree_v2 != nullptr) driver_.cuMemFree_v2(pointer);
    release_allocation(pointer);
  }
}

CUresult Session::handle(const record::cuCtxCreate_v4& record, reply::cuCtxCreate_v4&, Tail) {
  if (driver_.cuCtxCreate_v4 == nullptr) return unsupported(record.header.call);
  if (record.index == 0 || record.index >= max_contexts) return CUDA_ERROR_INVALID_VALUE;
  if (record.index < contexts_.size() && contexts_[record.index] != nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUcontext context = nullptr;
  const CUresult result = driver_.cuCtxCreate_v4(&context, nullptr, record.flags, device());
  if (result != CUDA_SUCCESS) return result;
  if (contexts_.size() <= record.index) contexts_.resize(std::size_t{record.index} + 1);
  contexts_[record.index] = context;
  // Creation made it current in this thread.
  context_index_ = record.index;
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuCtxDestroy_v2& record, reply::cuCtxDestroy_v2&, Tail) {
  if (driver_.cuCtxDestroy_v2 == nullptr) return unsupported(record.header.call);
  if (record.index == 0 || record.index >= contexts_.size() || contexts_[record.index] == nullptr) {
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  const CUcontext context = contexts_[record.index];
  contexts_[record.index] = nullptr;
  if (context_index_ == record.index) {
    if (const CUresult result = switch_context(0); result != CUDA_SUCCESS) return result;
  }
  for (const HandleKind kind :
       {HandleKind::stream, HandleKind::event, HandleKind::module, HandleKind::function}) {
    handles_.forget_if(
        kind, [index = record.index](std::uint64_t, std::uint64_t, std::uint16_t of) { return of == index; });
  }
  std::erase_if(stream_contexts_, [context](const auto& entry) { return entry.second == context; });
  // Waiters must be through with its events before it goes.
  const PendingReply pending = defer();
  const auto destroy = [this, pending, context](CUresult) {
    completions_.forget_context(context);
    {
      const std::lock_guard lock(work_mutex_);
      for (auto it = work_.begin(); it != work_.end();) {
        if (it->first.first != context) {
          ++it;
          continue;
        }
        if (it->second->dirty) {
          it->second->dirty = false;
          if (--dirty_streams_ == 0) accounting_.work_ended();
        }
        release_batch(std::exchange(it->second->open, {}));
        it = work_.erase(it);
      }
    }
    answer(pending, driver_.cuCtxDestroy_v2(context));
  };
  when_all_done(destroy, context);
  return deferred;
}

CUresult Session::handle(const record::cuCtxSynchronize& record, reply::cuCtxSynchronize&, Tail) {
  if (captures_ != 0) {
    // The driver itself says what is not allowed during a capture.
    if (driver_.cuCtxSynchronize == nullptr) return unsupported(record.header.call);
    return driver_.cuCtxSynchronize();
  }
  const PendingReply pending = defer();
  when_all_done([this, pending](CUresult result) { answer(pending, result); });
  return deferred;
}

}  // namespace vgpu::worker
