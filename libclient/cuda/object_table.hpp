// The client's side of minted handles: a table a kind, from which a handle is looked up without a lock.
// Objects live in their table for as long as the process does and are reused under a new generation, so that
// a stale handle is recognised and a racing lookup never reads freed memory. Never: talks to the worker.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "protocol/handle.hpp"

namespace vgpu::client {

/// Objects of type T (default-constructible, with a member function `void reset()` that makes it fresh) under
/// handles of one kind. find() is lock-free; create() and destroy() take a mutex, and at most once in kChunk
/// creations allocate.
template <class T>
class ObjectTable {
 public:
  explicit ObjectTable(HandleKind kind) : kind_(kind) {}
  ObjectTable(const ObjectTable&) = delete;
  ObjectTable& operator=(const ObjectTable&) = delete;
  ~ObjectTable() {
    for (auto& chunk : chunks_) delete[] chunk.load(std::memory_order_relaxed);
  }

  /// A fresh object and its handle; {nullptr, 0} once the table is full.
  std::pair<T*, std::uint64_t> create() {
    const std::lock_guard lock(mutex_);
    std::uint32_t index = 0;
    if (!free_.empty()) {
      index = free_.back();
      free_.pop_back();
    } else {
      index = next_;
      if (index / kChunk >= chunks_.size()) return {nullptr, 0};
      ++next_;
      auto& chunk = chunks_[index / kChunk];
      if (chunk.load(std::memory_order_relaxed) == nullptr)
        chunk.store(new Entry[kChunk], std::memory_order_release);
    }
    Entry& entry = chunks_[index / kChunk].load(std::memory_order_relaxed)[index % kChunk];
    entry.object.reset();
    const std::uint64_t handle = Handle::make(kind_, index, entry.generation);
    entry.handle.store(handle, std::memory_order_release);
    return {&entry.object, handle};
  }

  /// The object of a handle, nullptr if the handle is not one of this table or was destroyed.
  T* find(std::uint64_t handle) const {
    const std::uint32_t index = Handle::index(handle);
    if (index / kChunk >= chunks_.size()) return nullptr;
    Entry* chunk = chunks_[index / kChunk].load(std::memory_order_acquire);
    if (chunk == nullptr) return nullptr;
    Entry& entry = chunk[index % kChunk];
    return entry.handle.load(std::memory_order_acquire) == handle ? &entry.object : nullptr;
  }

  /// Forgets a handle; false if it was not (or no longer) known.
  bool destroy(std::uint64_t handle) {
    const std::lock_guard lock(mutex_);
    const std::uint32_t index = Handle::index(handle);
    if (index >= next_) return false;
    Entry& entry = chunks_[index / kChunk].load(std::memory_order_relaxed)[index % kChunk];
    if (handle == 0 || entry.handle.load(std::memory_order_relaxed) != handle) return false;
    entry.handle.store(0, std::memory_order_release);
    entry.generation = entry.generation % 0xFFF + 1;
    free_.push_back(index);
    return true;
  }

  /// Calls f(T&, handle) for each live object; f must not create or destroy in this table.
  template <class F>
  void for_each(F&& f) {
    all_of([&f](T& object, std::uint64_t handle) {
      f(object, handle);
      return true;
    });
  }

  /// True when f(T&, handle) is for each live object; stops at the first for which it is not. The same holds
  /// of f.
  template <class F>
  bool all_of(F&& f) {
    const std::lock_guard lock(mutex_);
    for (std::uint32_t index = 0; index < next_; ++index) {
      Entry& entry = chunks_[index / kChunk].load(std::memory_order_relaxed)[index % kChunk];
      const std::uint64_t handle = entry.handle.load(std::memory_order_relaxed);
      if (handle != 0 && !f(entry.object, handle)) return false;
    }
    return true;
  }

 private:
  struct Entry {
    std::atomic<std::uint64_t> handle{0};
    std::uint32_t generation = 1;
    T object;
  };
  static constexpr std::uint32_t kChunk = 512;
  static constexpr std::uint32_t kChunks = 8192;

  const HandleKind kind_;
  std::mutex mutex_;
  std::array<std::atomic<Entry*>, kChunks> chunks_{};
  std::vector<std::uint32_t> free_;
  std::uint32_t next_ = 0;
};

}  // namespace vgpu::client
