#include "softgpu/memory/guarded_access.hpp"

#include <signal.h>

#include <mutex>

namespace softgpu {
namespace {

struct sigaction previous_segv, previous_bus;

void on_signal(int number, siginfo_t* info, void* ucontext) {
  AccessPoint* const point = current_access_point();
  if (point != nullptr && info->si_code > 0) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    point->address = reinterpret_cast<std::uint64_t>(info->si_addr);
    siglongjmp(point->target, 1);
  }
  const struct sigaction& old = number == SIGBUS ? previous_bus : previous_segv;
  if ((old.sa_flags & SA_SIGINFO) != 0 && old.sa_sigaction != nullptr) {
    old.sa_sigaction(number, info, ucontext);
  } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
    old.sa_handler(number);
  } else {
    // The instruction faults again, this time with the default action.
    signal(number, SIG_DFL);
  }
}

}  // namespace

AccessPoint*& current_access_point() {
  static thread_local AccessPoint* point = nullptr;
  return point;
}

void install_access_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &previous_segv);
    sigaction(SIGBUS, &action, &previous_bus);
  });
}

}  // namespace softgpu
