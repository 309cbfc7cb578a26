#include "libclient/cuda/copy_crew.hpp"

#include <signal.h>

#include <system_error>
#include <thread>

namespace vgpu::client {
namespace {

// One thread copies at 8 to 10 GB/s, a PCIe 5 link moves 55: with four, a copy is about as fast as the
// driver's own. More would take CPUs from the program.
constexpr unsigned kHelpers = 3;
constexpr unsigned kFewCpus = 8;

}  // namespace

CopyCrew& CopyCrew::instance() {
  static auto* const crew = new CopyCrew(std::thread::hardware_concurrency() > kFewCpus ? kHelpers : 0);
  return *crew;
}

void CopyCrew::start() {
  started_ = true;
  // The program's signals are for its own threads.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    for (unsigned i = 0; i < helpers_; ++i) std::thread([this] { help(); }).detach();
  } catch (const std::system_error&) {
    // Fewer helpers will do.
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void CopyCrew::run(const std::function<void()>& work) {
  const std::unique_lock turn(turn_, std::try_to_lock);
  if (!turn || helpers_ == 0) {
    work();
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    if (!started_) start();
    work_ = &work;
    ++round_;
  }
  begin_.notify_all();
  work();
  // Helpers that have not begun have nothing left to do.
  std::unique_lock lock(mutex_);
  work_ = nullptr;
  end_.wait(lock, [this] { return running_ == 0; });
}

void CopyCrew::help() {
  std::uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  for (;;) {
    begin_.wait(lock, [&] { return work_ != nullptr && round_ != seen; });
    seen = round_;
    const std::function<void()>* const work = work_;
    ++running_;
    lock.unlock();
    (*work)();
    lock.lock();
    if (--running_ == 0) end_.notify_one();
  }
}

}  // namespace vgpu::client
