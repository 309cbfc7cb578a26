#include "libclient/cuda/thread_state.hpp"

#include <pthread.h>

#include <atomic>
#include <memory>

namespace vgpu::client {
namespace {

std::atomic<ThreadEnd> thread_end{nullptr};

void end_thread(void* argument) {
  const std::unique_ptr<ThreadState> state(static_cast<ThreadState*>(argument));
  if (const ThreadEnd function = thread_end.load(std::memory_order_acquire)) function(*state);
  detail::thread_state = nullptr;
}

pthread_key_t end_key() {
  static const pthread_key_t key = [] {
    pthread_key_t made{};
    pthread_key_create(&made, &end_thread);
    return made;
  }();
  return key;
}

}  // namespace

namespace detail {

thread_local ThreadState* thread_state __attribute__((tls_model("initial-exec"))) = nullptr;

ThreadState& make_thread_state() {
  thread_state = new ThreadState;
  pthread_setspecific(end_key(), thread_state);
  return *thread_state;
}

}  // namespace detail

void set_thread_end(ThreadEnd function) {
  thread_end.store(function, std::memory_order_release);
}

}  // namespace vgpu::client
