#include "daemon/stub/host/doorbell_thread.hpp"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <csignal>
#include <ctime>

#include "protocol/futex.hpp"

namespace vgpu::daemon::stub_host {
namespace {

constexpr std::uint64_t kWindowNs = 10'000'000;
constexpr unsigned kMostInWindow = 500;  // 50,000 a second: far more than wakes that can be of use
constexpr std::uint64_t kAwakeNs = 2'000'000;
constexpr long kShortPauseNs = 20'000;
constexpr long kLongPauseNs = 500'000;

void pause_ns(long ns) {
  const timespec pause{0, ns};
  nanosleep(&pause, nullptr);
}

// Takes an eventfd's count; 0 when there is none or it cannot be taken. QEMU's end is the same open file, so
// that O_NONBLOCK is not ours alone to set, and what poll() told of may be taken by others before us.
std::uint64_t take_count(int fd) {
  std::uint64_t count = 0;
  const iovec place{&count, sizeof count};
  const bool taken = preadv2(fd, &place, 1, -1, RWF_NOWAIT) == static_cast<ssize_t>(sizeof count);
  return taken ? count : 0;
}

}  // namespace

bool DoorbellThread::possible() {
  const UniqueFd probe(eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
  return take_count(probe.get()) == 1;
}

DoorbellThread::DoorbellThread(const VmMemory& memory, const IvshmemServer::Doorbells& doorbells,
                               int requests)
    : memory_(memory),
      doorbells_(doorbells),
      requests_(requests),
      stop_event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      kicks_(memory.division().slot_count, 0) {
  // Signals are the loop's; a thread inherits the mask.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

DoorbellThread::~DoorbellThread() {
  stop_.store(true);
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(stop_event_.get(), &one, sizeof one);
  thread_.join();
}

void DoorbellThread::run() {
  pthread_setname_np(pthread_self(), "vgpud-doorbell");
  prctl(PR_SET_TIMERSLACK, 1000UL);
  if (std::atomic<std::uint32_t>* const word = memory_.doorbell_word()) {
    poll_word(*word);
  } else {
    wait_for_eventfds();
  }
}

// A folder's BAR0 is plain memory: the last number written stays until it is taken, for whichever vector it
// was.
void DoorbellThread::poll_word(std::atomic<std::uint32_t>& word) {
  std::uint64_t awake_until = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    if (word.load(std::memory_order_acquire) != 0) {
      word.store(0, std::memory_order_seq_cst);
      received_.fetch_add(1, std::memory_order_relaxed);
      wake_kicked();
      tell_loop();
      pace();
      awake_until = now_ns() + kAwakeNs;
    }
    pause_ns(now_ns() < awake_until ? kShortPauseNs : kLongPauseNs);
  }
}

void DoorbellThread::wait_for_eventfds() {
  std::array<pollfd, stub::vector_count + 1> wanted{};
  for (std::size_t i = 0; i < stub::vector_count; ++i) wanted[i] = {doorbells_[i].get(), POLLIN, 0};
  wanted[stub::vector_count] = {stop_event_.get(), POLLIN, 0};
  while (!stop_.load(std::memory_order_relaxed)) {
    if (poll(wanted.data(), wanted.size(), -1) <= 0) continue;
    for (std::size_t i = 0; i < stub::vector_count; ++i) {
      if ((wanted[i].revents & POLLIN) == 0) continue;
      if (const std::uint64_t count = take_count(wanted[i].fd); count != 0) {
        received_.fetch_add(count, std::memory_order_relaxed);
        if (i == stub::vector_request) tell_loop();
        wake_kicked();
      }
      pace();  // also where the count was taken away from us: that is no less a flood
    }
  }
}

void DoorbellThread::wake_kicked() {
  for (std::uint32_t index = 0; index < kicks_.size(); ++index) {
    const std::uint32_t kick = memory_.slot(index).guest.kick.load(std::memory_order_seq_cst);
    if (kick == kicks_[index]) continue;
    kicks_[index] = kick;
    futex_wake(memory_.channel_control(index).consumer_sleeps, 1);
    UpcallEntry* const entries = memory_.upcalls(index);
    for (std::size_t i = 0; i < upcall_count; ++i) {
      if (entries[i].state.load(std::memory_order_acquire) == static_cast<std::uint32_t>(UpcallState::done)) {
        futex_wake(entries[i].state);
      }
    }
  }
}

void DoorbellThread::tell_loop() const {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(requests_, &one, sizeof one);
}

void DoorbellThread::pace() {
  const std::uint64_t now = now_ns();
  if (now - window_start_ns_ > kWindowNs) {
    window_start_ns_ = now;
    in_window_ = 0;
  }
  if (++in_window_ > kMostInWindow) pause_ns(static_cast<long>(kWindowNs));
}

}  // namespace vgpu::daemon::stub_host
