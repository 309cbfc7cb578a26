#include "daemon/worker/host_calls.hpp"

#include <utility>

namespace vgpu::worker {

HostCalls::Call* HostCalls::for_stream(const Upcall& upcall, bool keep) {
  auto made = std::make_unique<Call>(Call{*this, upcall, keep});
  // run() deletes what is not kept.
  if (!keep) return made.release();
  const std::lock_guard lock(mutex_);
  kept_.push_back(std::move(made));
  return kept_.back().get();
}

std::unique_ptr<HostCalls::Call> HostCalls::for_graph(const Upcall& upcall) {
  return std::make_unique<Call>(Call{*this, upcall, true});
}

void HostCalls::keep(std::unique_ptr<Call> call) {
  const std::lock_guard lock(mutex_);
  kept_.push_back(std::move(call));
}

std::optional<Upcall> HostCalls::kept(const void* call) {
  const std::lock_guard lock(mutex_);
  for (const auto& one : kept_) {
    if (one.get() == call) return one->upcall;
  }
  return std::nullopt;
}

std::unique_ptr<HostCalls::Call> HostCalls::for_destructor(const Upcall& upcall) {
  return std::make_unique<Call>(Call{*this, upcall, false});
}

void HostCalls::expect(std::unique_ptr<Call> call) {
  const std::lock_guard lock(mutex_);
  const Call* const key = call.get();
  destructors_[key] = std::move(call);
}

void CUDA_CB HostCalls::run(void* call) {
  auto* const made = static_cast<Call*>(call);
  made->owner.upcalls_.call(made->upcall, made->owner.stop_);
  if (!made->keep) delete made;
}

void CUDA_CB HostCalls::run_callback(CUstream, CUresult status, void* call) {
  static_cast<Call*>(call)->upcall.status = static_cast<std::int32_t>(status);
  run(call);
}

void CUDA_CB HostCalls::run_destructor(void* call) {
  HostCalls& owner = static_cast<Call*>(call)->owner;
  const std::lock_guard lock(owner.mutex_);
  const auto found = owner.destructors_.find(static_cast<Call*>(call));
  if (found == owner.destructors_.end()) return;
  owner.destructor_calls_.post(
      [&owner, upcall = found->second->upcall] { owner.upcalls_.call(upcall, owner.stop_); });
  owner.destructors_.erase(found);
}

}  // namespace vgpu::worker
