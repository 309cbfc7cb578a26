#include "protocol/memory_account.hpp"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <ctime>
#include <new>

#include "protocol/errno_text.hpp"
#include "protocol/sealed_memory.hpp"

namespace vgpu {
namespace {
// Nobody holds the lock for longer than it takes to add 64 numbers, unless he was stopped in the middle of
// it.
constexpr std::time_t kPatienceSeconds = 1;
}  // namespace

struct MemoryAccount::Shared {
  pthread_mutex_t lock;  // robust: its owner may be killed
  std::array<std::atomic<std::uint64_t>, places> held;

  [[nodiscard]] std::uint64_t sum() const {
    std::uint64_t all = 0;
    for (const auto& one : held) all += one.load(std::memory_order_relaxed);
    return all;
  }
};

tl::expected<std::unique_ptr<MemoryAccount>, std::string> MemoryAccount::create(UniqueFd& fd) {
  UniqueFd made = sealed_memory("vgpud-account", sizeof(Shared));
  if (!made) return tl::unexpected(errno_text("memory for a VM's account"));
  auto account = attach(made.get());
  if (!account) return account;
  Shared& shared = *new ((*account)->shared_) Shared{};
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  const int failed = pthread_mutex_init(&shared.lock, &attributes);
  pthread_mutexattr_destroy(&attributes);
  if (failed != 0) return tl::unexpected(std::string("the lock of a VM's account cannot be made"));
  fd = std::move(made);
  return account;
}

tl::expected<std::unique_ptr<MemoryAccount>, std::string> MemoryAccount::attach(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return tl::unexpected(errno_text("fstat of a VM's account"));
  if (status.st_size != static_cast<off_t>(sizeof(Shared))) {
    return tl::unexpected(std::string("a VM's account has a wrong size"));
  }
  void* const at = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return tl::unexpected(errno_text("mapping a VM's account"));
  return std::unique_ptr<MemoryAccount>(new MemoryAccount(static_cast<Shared*>(at)));
}

MemoryAccount::~MemoryAccount() {
  munmap(shared_, sizeof(Shared));
}

bool MemoryAccount::charge(std::size_t place, std::uint64_t bytes, std::uint64_t quota) {
  if (place >= places) return false;
  if (quota == 0) {
    shared_->held[place].fetch_add(bytes, std::memory_order_relaxed);
    return true;
  }
  timespec until{};
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += kPatienceSeconds;
  const int locked = pthread_mutex_timedlock(&shared_->lock, &until);
  if (locked == EOWNERDEAD) {
    pthread_mutex_consistent(&shared_->lock);  // it guards one addition, which was made or was not
  } else if (locked != 0) {
    return false;
  }
  // Refunds need no lock: they only make room.
  const std::uint64_t used = shared_->sum();
  const bool fits = used <= quota && bytes <= quota - used;
  if (fits) shared_->held[place].fetch_add(bytes, std::memory_order_relaxed);
  pthread_mutex_unlock(&shared_->lock);
  return fits;
}

void MemoryAccount::refund(std::size_t place, std::uint64_t bytes) {
  if (place < places) shared_->held[place].fetch_sub(bytes, std::memory_order_relaxed);
}

void MemoryAccount::clear(std::size_t place) {
  if (place < places) shared_->held[place].store(0, std::memory_order_relaxed);
}

std::uint64_t MemoryAccount::used() const {
  return shared_->sum();
}

}  // namespace vgpu
