#include "daemon/worker/completions.hpp"

#include <utility>

namespace vgpu::worker {
namespace {
constexpr std::size_t max_waiters = 64;
}

Completions::Completions(const DriverTable& driver, CUcontext context) : driver_(driver), context_(context) {}

Completions::~Completions() {
  stop();
  for (std::thread& waiter : waiters_) waiter.join();
}

CUresult Completions::take_event(CUcontext context, CUevent& event) {
  {
    const std::lock_guard lock(mutex_);
    std::vector<CUevent>& events = free_events_[context];
    if (!events.empty()) {
      event = events.back();
      events.pop_back();
      return CUDA_SUCCESS;
    }
  }
  if (driver_.cuEventCreate == nullptr) return CUDA_ERROR_NOT_SUPPORTED;
  // Blocking: a waiter must sleep, not take the CPU from a software GPU.
  return driver_.cuEventCreate(&event, CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC);
}

void Completions::put_event(CUcontext context, CUevent event) {
  const std::lock_guard lock(mutex_);
  free_events_[context].push_back(event);
}

void Completions::forget_context(CUcontext context) {
  const std::lock_guard lock(mutex_);
  free_events_.erase(context);
}

void Completions::add(std::uint64_t key, Entry entry) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Queue>& queue = queues_[key];
  if (!queue) queue = std::make_shared<Queue>();
  if (queue->entries.empty() && !queue->with_waiter) ++with_dispatcher_;
  queue->entries.push_back(std::move(entry));
}

CUresult Completions::after_stream(CUcontext context, CUstream stream, Done done) {
  CUevent event = nullptr;
  // Work that has faulted already says so here.
  if (const CUresult made = take_event(context, event); made != CUDA_SUCCESS) return made;
  const CUresult result = driver_.cuEventRecord(event, stream);
  if (result != CUDA_SUCCESS) {
    put_event(context, event);
    return result;
  }
  add(key_of(context, stream), Entry{event, context, std::move(done)});
  return CUDA_SUCCESS;
}

std::uint64_t Completions::key_of(CUcontext context, CUstream stream) {
  return stream != nullptr ? reinterpret_cast<std::uint64_t>(stream)
                           : reinterpret_cast<std::uint64_t>(context);
}

void Completions::after_recorded(CUcontext context, CUstream stream, CUevent event, Done done) {
  add(key_of(context, stream), Entry{event, nullptr, std::move(done)});
}

void Completions::after_event(CUevent event, Done done) {
  // Events and streams are different objects, so their addresses never coincide.
  add(reinterpret_cast<std::uint64_t>(event), Entry{event, nullptr, std::move(done)});
}

bool Completions::waits_for(CUevent event) {
  const std::lock_guard lock(mutex_);
  const auto found = queues_.find(reinterpret_cast<std::uint64_t>(event));
  return found != queues_.end() && !found->second->entries.empty();
}

bool Completions::poll() {
  std::unique_lock lock(mutex_);
  if (with_dispatcher_ == 0) return false;
  std::vector<std::shared_ptr<Queue>> mine;
  for (auto it = queues_.begin(); it != queues_.end();) {
    if (it->second->with_waiter) {
      ++it;
    } else if (it->second->entries.empty()) {
      it = queues_.erase(it);
    } else {
      mine.push_back(it->second);
      ++it;
    }
  }
  for (const auto& queue : mine) {
    while (!queue->entries.empty()) {
      const CUevent event = queue->entries.front().event;
      lock.unlock();
      const CUresult result = driver_.cuEventQuery(event);
      // What kernels printed, also before a fault, comes out at a synchronisation only; this one has nothing
      // left to wait for.
      if (result != CUDA_ERROR_NOT_READY && driver_.cuEventSynchronize != nullptr &&
          (prints_.load(std::memory_order_relaxed) || result != CUDA_SUCCESS)) {
        driver_.cuEventSynchronize(event);
      }
      lock.lock();
      if (result == CUDA_ERROR_NOT_READY) break;
      Entry entry = std::move(queue->entries.front());
      queue->entries.pop_front();
      if (entry.context != nullptr) free_events_[entry.context].push_back(entry.event);
      if (queue->entries.empty()) --with_dispatcher_;
      lock.unlock();
      entry.done(result);
      lock.lock();
    }
  }
  return with_dispatcher_ != 0;
}

void Completions::hand_off() {
  const std::lock_guard lock(mutex_);
  if (with_dispatcher_ == 0) return;
  for (auto& [key, queue] : queues_) {
    if (queue->with_waiter || queue->entries.empty()) continue;
    queue->with_waiter = true;
    handed_.push_back(queue);
    if (idle_waiters_ >= handed_.size()) {
      work_.notify_one();
    } else if (waiters_.size() < max_waiters) {
      waiters_.emplace_back([this] { wait_loop(); });
    }
  }
  with_dispatcher_ = 0;
}

void Completions::stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  work_.notify_all();
}

void Completions::wait_loop() {
  driver_.cuCtxSetCurrent(context_);
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_waiters_;
    work_.wait(lock, [this] { return stopping_ || !handed_.empty(); });
    --idle_waiters_;
    if (stopping_) return;
    const std::shared_ptr<Queue> queue = std::move(handed_.front());
    handed_.pop_front();
    while (!queue->entries.empty() && !stopping_) {
      const CUevent event = queue->entries.front().event;
      lock.unlock();
      const CUresult result = driver_.cuEventSynchronize(event);
      lock.lock();
      Entry entry = std::move(queue->entries.front());
      queue->entries.pop_front();
      if (entry.context != nullptr) free_events_[entry.context].push_back(entry.event);
      lock.unlock();
      entry.done(result);
      lock.lock();
    }
    queue->with_waiter = false;
  }
}

}  // namespace vgpu::worker
