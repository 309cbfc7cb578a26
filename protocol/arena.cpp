#include "protocol/arena.hpp"

#include <boost/interprocess/managed_external_buffer.hpp>
#include <deque>
#include <mutex>
#include <new>

#include "protocol/reply_slots.hpp"

namespace vgpu {

struct Arena::Impl {
  // A mutex of this process does: the worker never allocates.
  std::mutex mutex;
  boost::interprocess::managed_external_buffer heap;
  std::byte* base;
  std::uint64_t bytes;
  std::deque<ArenaBlock*> under_way;

  // What ended in order, so that warm memory is used again.
  void collect_oldest() {
    while (!under_way.empty() && block_done(*under_way.front())) {
      heap.deallocate(under_way.front());
      under_way.pop_front();
    }
  }

  std::size_t collect() {
    std::erase_if(under_way, [this](ArenaBlock* block) {
      if (!block_done(*block)) return false;
      heap.deallocate(block);
      return true;
    });
    return under_way.size();
  }
};

Arena::Arena(std::span<std::byte> memory)
    : impl_(new Impl{{},
                     boost::interprocess::managed_external_buffer(boost::interprocess::create_only,
                                                                  memory.data(), memory.size()),
                     memory.data(),
                     memory.size(),
                     {}}) {}
Arena::~Arena() = default;

ArenaBlock* Arena::allocate(std::uint64_t bytes) {
  if (bytes > impl_->bytes) return nullptr;
  const std::lock_guard lock(impl_->mutex);
  const auto take = [&] {
    return impl_->heap.allocate_aligned(sizeof(ArenaBlock) + bytes, 64, std::nothrow);
  };
  impl_->collect_oldest();
  void* memory = take();
  if (memory == nullptr && !impl_->under_way.empty()) {
    impl_->collect();
    memory = take();
  }
  if (memory == nullptr) return nullptr;
  auto* const block = new (memory) ArenaBlock{};
  begin_block(*block);
  return block;
}

void Arena::free(ArenaBlock* block) {
  const std::lock_guard lock(impl_->mutex);
  impl_->heap.deallocate(block);
}

void Arena::free_when_done(ArenaBlock* block) {
  const std::lock_guard lock(impl_->mutex);
  impl_->under_way.push_back(block);
  // Now and then, so that small blocks do not pile up until the arena is full.
  if (impl_->under_way.size() % 64 == 0) impl_->collect();
}

std::size_t Arena::collect() {
  const std::lock_guard lock(impl_->mutex);
  return impl_->collect();
}

std::uint64_t Arena::offset(const ArenaBlock* block) const {
  return static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(block) - impl_->base);
}

std::uint64_t Arena::largest() const {
  // The segment manager keeps some bytes for itself.
  return impl_->bytes - 65536;
}

ArenaBlock* block_at(std::span<std::byte> arena, std::uint64_t offset, std::uint64_t bytes) {
  if (offset % alignof(ArenaBlock) != 0 || offset > arena.size() ||
      arena.size() - offset < sizeof(ArenaBlock) || arena.size() - offset - sizeof(ArenaBlock) < bytes) {
    return nullptr;
  }
  return reinterpret_cast<ArenaBlock*>(arena.data() + offset);
}

}  // namespace vgpu
