#include "libclient/cuda/upcalls.hpp"

#include <pthread.h>
#include <signal.h>

#include "libclient/cuda/stub_runtime.hpp"
#include "protocol/upcall.hpp"

namespace vgpu::client {
namespace {

void run(const Upcall& upcall) {
  auto* const user = from_bits<void*>(upcall.user);
  if (upcall.kind == 0) {
    from_bits<CUhostFn>(upcall.function)(user);
  } else {
    const auto function = from_bits<CUstreamCallback>(upcall.function);
    function(from_bits<CUstream>(upcall.stream), static_cast<CUresult>(upcall.status), user);
  }
}

void* serve(void* argument) {
  Process& process = *static_cast<Process*>(argument);
  // A host function may not call CUDA: its stream waits for it.
  this_thread().in_host_function = true;
  UpcallReader reader(process.connection->channel());
  constexpr std::uint64_t kLookAround = 200'000'000;
  while (process.connection->alive()) {
    Upcall upcall;
    if (!reader.next(upcall, kLookAround)) continue;
    run(upcall);
    reader.finish();
  }
  return nullptr;
}

}  // namespace

bool start_upcalls(Process& process) {
  if (process.upcalls_run.load(std::memory_order_acquire)) return true;
  const std::lock_guard lock(process.upcalls_mutex);
  if (process.upcalls_run.load(std::memory_order_relaxed)) return true;
  // The program's signals are not for this thread.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread{};
  const bool started = pthread_create(&thread, nullptr, &serve, &process) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (started) {
    pthread_detach(thread);
    process.upcalls_run.store(true, std::memory_order_release);
  }
  return started;
}

}  // namespace vgpu::client
