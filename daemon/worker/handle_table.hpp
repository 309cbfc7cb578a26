// What the client's handles name in the driver. One thread (the dispatcher) uses it.
#pragma once

#include <cuda.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "protocol/handle.hpp"

namespace vgpu::worker {

/// The kind of handles that name objects of this type.
template <class T>
inline constexpr HandleKind kind_of_names = HandleKind::none;
template <>
inline constexpr HandleKind kind_of_names<CUevent> = HandleKind::event;
template <>
inline constexpr HandleKind kind_of_names<CUmodule> = HandleKind::module;
template <>
inline constexpr HandleKind kind_of_names<CUlibrary> = HandleKind::library;
template <>
inline constexpr HandleKind kind_of_names<CUkernel> = HandleKind::kernel;
template <>
inline constexpr HandleKind kind_of_names<CUgraph> = HandleKind::graph;
template <>
inline constexpr HandleKind kind_of_names<CUgraphExec> = HandleKind::graph_exec;
template <>
inline constexpr HandleKind kind_of_names<CUgraphNode> = HandleKind::graph_node;
template <>
inline constexpr HandleKind kind_of_names<CUgreenCtx> = HandleKind::green_context;
template <>
inline constexpr HandleKind kind_of_names<CUmemoryPool> = HandleKind::mem_pool;
template <>
inline constexpr HandleKind kind_of_names<CUmemGenericAllocationHandle> = HandleKind::mem_allocation;
template <>
inline constexpr HandleKind kind_of_names<CUarray> = HandleKind::array;
template <>
inline constexpr HandleKind kind_of_names<CUmipmappedArray> = HandleKind::mipmapped_array;

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
  /// The object of the driver's that the handle names, as find() does.
  template <class T>
  bool look_up(HandleKind kind, std::uint64_t handle, T& out) const {
    const std::uint64_t* const value = find(kind, handle);
    if (value == nullptr) return false;
    if constexpr (std::is_pointer_v<T>) {
      out = reinterpret_cast<T>(*value);
    } else {
      out = *value;
    }
    return true;
  }
  /// The same by the object's type.
  template <class T>
  bool resolve(std::uint64_t handle, T& out) const {
    static_assert(kind_of_names<T> != HandleKind::none);
    return look_up(kind_of_names<T>, handle, out);
  }
  bool resolve(std::uint64_t handle, CUstream& out) const {
    if (handle > 1) return look_up(HandleKind::stream, handle, out);
    out = handle == 0 ? nullptr : CU_STREAM_LEGACY;
    return true;
  }
  /// Kernels too: the driver takes them as functions.
  bool resolve(std::uint64_t handle, CUfunction& out) const {
    return look_up(HandleKind::function, handle, out) || look_up(HandleKind::kernel, handle, out);
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
  /// Whether anything of a kind ends with `owner`. Slow.
  bool any_of_owner(HandleKind kind, std::uint64_t owner) const {
    const auto& entries = kinds_[static_cast<std::size_t>(kind)];
    return std::any_of(entries.begin(), entries.end(),
                       [owner](const Entry& entry) { return entry.used && entry.owner == owner; });
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
