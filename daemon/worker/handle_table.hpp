// What the client's handles name in the driver. One thread (the dispatcher) uses it.
#pragma once

#include <cstdint>
#include <vector>

#include "protocol/handle.hpp"

namespace vgpu::worker {

/// Maps handles to the driver's values, by kind, index and generation. Believes nothing about a handle.
class HandleTable {
 public:
  static constexpr std::uint32_t max_entries =
      1u << 20;  ///< of each kind: what a hostile client can make us hold

  /// True when `handle` could be bound: right kind, index in range.
  bool can_bind(HandleKind kind, std::uint64_t handle) const {
    return Handle::is(handle, kind) && Handle::index(handle) < max_entries;
  }
  /// Names `value` by `handle`; forgets what the index named before. `owner` is the handle (0: none) with
  /// which the value ends, `context` the index of the context in which it was made.
  void bind(HandleKind kind, std::uint64_t handle, std::uint64_t value, std::uint64_t owner = 0,
            std::uint16_t context = 0) {
    if (!can_bind(kind, handle)) return;
    auto& entries = kinds_[static_cast<std::size_t>(kind)];
    const std::uint32_t index = Handle::index(handle);
    if (index >= entries.size()) entries.resize(std::size_t{index} + 1);
    entries[index] = {value, owner, static_cast<std::uint16_t>(Handle::generation(handle)), context, true};
  }
  /// The value, or nullptr when the handle names nothing.
  const std::uint64_t* find(HandleKind kind, std::uint64_t handle) const {
    const Entry* const entry = entry_of(kind, handle);
    return entry != nullptr ? &entry->value : nullptr;
  }
  /// The handle with which `handle` ends, 0 when there is none.
  std::uint64_t owner(HandleKind kind, std::uint64_t handle) const {
    const Entry* const entry = entry_of(kind, handle);
    return entry != nullptr ? entry->owner : 0;
  }
  /// The handle of the first entry of a kind for whose value chosen(value) is true, 0 for none. Slow.
  template <class F>
  std::uint64_t find_handle(HandleKind kind, F&& chosen) const {
    const auto& entries = kinds_[static_cast<std::size_t>(kind)];
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].used && chosen(entries[i].value))
        return Handle::make(kind, static_cast<std::uint32_t>(i), entries[i].generation);
    }
    return 0;
  }
  /// The handle that names `value`, 0 for none. Slow.
  std::uint64_t handle_of(HandleKind kind, std::uint64_t value) const {
    return find_handle(kind, [value](std::uint64_t known) { return known == value; });
  }
  void forget(HandleKind kind, std::uint64_t handle) {
    if (find(kind, handle) != nullptr)
      kinds_[static_cast<std::size_t>(kind)][Handle::index(handle)].used = false;
  }
  /// Forgets the handles of a kind for which chosen(value, owner, context) is true: what they name is gone.
  template <class F>
  void forget_if(HandleKind kind, F&& chosen) {
    for (Entry& entry : kinds_[static_cast<std::size_t>(kind)]) {
      if (entry.used && chosen(entry.value, entry.owner, entry.context)) entry.used = false;
    }
  }
  /// Forgets all handles of a kind and calls f(value) for each.
  template <class F>
  void take_all(HandleKind kind, F&& f) {
    for (Entry& entry : kinds_[static_cast<std::size_t>(kind)]) {
      if (!entry.used) continue;
      entry.used = false;
      f(entry.value);
    }
  }
  /// The same of those of one context.
  template <class F>
  void take_of(HandleKind kind, std::uint16_t context, F&& f) {
    for (Entry& entry : kinds_[static_cast<std::size_t>(kind)]) {
      if (!entry.used || entry.context != context) continue;
      entry.used = false;
      f(entry.value);
    }
  }
  /// Calls f(value) for every handle of a kind.
  template <class F>
  void for_each(HandleKind kind, F&& f) const {
    for (const Entry& entry : kinds_[static_cast<std::size_t>(kind)]) {
      if (entry.used) f(entry.value);
    }
  }

 private:
  struct Entry {
    std::uint64_t value = 0;
    std::uint64_t owner = 0;
    std::uint16_t generation = 0;  // 12 bits
    std::uint16_t context = 0;
    bool used = false;
  };
  const Entry* entry_of(HandleKind kind, std::uint64_t handle) const {
    if (!Handle::is(handle, kind)) return nullptr;
    const auto& entries = kinds_[static_cast<std::size_t>(kind)];
    const std::uint32_t index = Handle::index(handle);
    if (index >= entries.size()) return nullptr;
    const Entry& entry = entries[index];
    return entry.used && entry.generation == Handle::generation(handle) ? &entry : nullptr;
  }
  std::vector<Entry> kinds_[static_cast<std::size_t>(HandleKind::count)];
};

}  // namespace vgpu::worker
