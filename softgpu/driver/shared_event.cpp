#include "softgpu/driver/shared_event.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <map>
#include <mutex>
#include <vector>

namespace softgpu {
/// One memfd of slots, mapped.
class EventArena {
 public:
  struct alignas(64) Slot {
    std::atomic<std::uint64_t> recorded;
    std::atomic<std::uint64_t> finished;
    std::atomic<std::uint32_t> holders;  ///< processes' SharedEvents; 0: free
    std::atomic<std::uint32_t> generation;
    std::atomic<std::int32_t> recorder;  ///< pid of who recorded last
  };
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free && sizeof(Slot) == 64);
  static constexpr std::uint32_t slots = 1024;
  static constexpr std::size_t arena_bytes = slots * sizeof(Slot);

  static std::shared_ptr<EventArena> make() {
    const int fd = memfd_create("softgpu-events", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return nullptr;
    if (ftruncate(fd, arena_bytes) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
      close(fd);
      return nullptr;
    }
    return map(fd, getpid());
  }
  static std::shared_ptr<EventArena> open(const SharedFile& file) {
    const int fd = open_file(file);
    if (fd < 0) return nullptr;
    struct stat status {};
    const int seals = fcntl(fd, F_GET_SEALS);
    if (fstat(fd, &status) != 0 || status.st_size != static_cast<off_t>(arena_bytes) || seals < 0 ||
        (seals & F_SEAL_SHRINK) == 0) {
      close(fd);
      return nullptr;
    }
    return map(fd, file.pid);
  }
  ~EventArena() {
    munmap(slots_, arena_bytes);
    close(fd_);
  }
  EventArena(const EventArena&) = delete;
  EventArena& operator=(const EventArena&) = delete;

  Slot& slot(std::uint32_t index) { return slots_[index]; }
  int fd() const { return fd_; }
  bool own() const { return owner_ == getpid(); }

  /// Takes a free slot.
  std::optional<std::uint32_t> take() {
    for (std::uint32_t i = 0; i < slots; ++i) {
      Slot& slot = slots_[(next_ + i) % slots];
      std::uint32_t none = 0;
      if (!slot.holders.compare_exchange_strong(none, 1)) continue;
      slot.recorded.store(0);
      slot.finished.store(0);
      slot.generation.fetch_add(1);
      const std::uint32_t taken = (next_ + i) % slots;
      next_ = taken + 1;
      return taken;
    }
    return std::nullopt;
  }
  /// Holds a slot that is in use for its `generation`-th event.
  bool hold(std::uint32_t index, std::uint32_t generation) {
    if (index >= slots) return false;
    Slot& slot = slots_[index];
    std::uint32_t held = slot.holders.load();
    do {
      if (held == 0) return false;
    } while (!slot.holders.compare_exchange_weak(held, held + 1));
    if (slot.generation.load() == generation) return true;
    slot.holders.fetch_sub(1);
    return false;
  }

 private:
  EventArena(int fd, Slot* mapped, pid_t owner) : fd_(fd), slots_(mapped), owner_(owner) {}
  static std::shared_ptr<EventArena> map(int fd, pid_t owner) {
    void* const mapped = mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
      close(fd);
      return nullptr;
    }
    return std::shared_ptr<EventArena>(new EventArena(fd, static_cast<Slot*>(mapped), owner));
  }

  const int fd_;
  Slot* const slots_;
  const pid_t owner_;
  std::uint32_t next_ = 0;  // under the table's mutex
};

namespace {

struct Arenas {
  std::mutex mutex;
  std::vector<std::shared_ptr<EventArena>> own;  ///< kept: their descriptors stand in handles
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::weak_ptr<EventArena>>
      opened;  ///< by device and inode
};

Arenas& arenas() {
  static auto* const instance = new Arenas;
  return *instance;
}

}  // namespace

SharedEvent::SharedEvent(std::shared_ptr<EventArena> arena, std::uint32_t slot)
    : arena_(std::move(arena)), slot_(slot) {}

SharedEvent::~SharedEvent() {
  arena_->slot(slot_).holders.fetch_sub(1);
}

std::shared_ptr<SharedEvent> SharedEvent::create() {
  const std::unique_lock lock(arenas().mutex);
  for (const auto& arena : arenas().own) {
    if (const auto slot = arena->take()) return std::shared_ptr<SharedEvent>(new SharedEvent(arena, *slot));
  }
  const auto arena = EventArena::make();
  if (arena == nullptr) return nullptr;
  arenas().own.push_back(arena);
  return std::shared_ptr<SharedEvent>(new SharedEvent(arena, arena->take().value()));
}

std::shared_ptr<SharedEvent> SharedEvent::open(const SharedEventPlace& place) {
  const std::unique_lock lock(arenas().mutex);
  auto& known = arenas().opened[{place.file.device, place.file.inode}];
  std::shared_ptr<EventArena> arena = known.lock();
  if (arena == nullptr) {
    arena = EventArena::open(place.file);
    known = arena;
  }
  if (arena == nullptr) {
    arenas().opened.erase({place.file.device, place.file.inode});
    return nullptr;
  }
  if (!arena->hold(place.slot, place.generation)) return nullptr;
  return std::shared_ptr<SharedEvent>(new SharedEvent(arena, place.slot));
}

SharedEventPlace SharedEvent::place() const {
  return {describe_file(arena_->fd()).value_or(SharedFile{}), slot_, arena_->slot(slot_).generation.load()};
}

bool SharedEvent::own() const {
  return arena_->own();
}

std::uint64_t SharedEvent::begin() {
  EventArena::Slot& slot = arena_->slot(slot_);
  slot.recorder.store(getpid());
  return slot.recorded.fetch_add(1) + 1;
}

void SharedEvent::finish(std::uint64_t number) {
  std::atomic<std::uint64_t>& finished = arena_->slot(slot_).finished;
  std::uint64_t before = finished.load();
  while (before < number && !finished.compare_exchange_weak(before, number, std::memory_order_acq_rel)) {
  }
}

std::uint64_t SharedEvent::recorded() const {
  return arena_->slot(slot_).recorded.load(std::memory_order_acquire);
}

bool SharedEvent::passed(std::uint64_t number) const {
  const EventArena::Slot& slot = arena_->slot(slot_);
  if (slot.finished.load(std::memory_order_acquire) >= number) return true;
  // What a dead process had recorded will never be reached: its work has ended with it.
  return kill(slot.recorder.load(), 0) != 0 && errno == ESRCH;
}

}  // namespace softgpu
