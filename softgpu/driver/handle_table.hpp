// Turns the handles that programs hold back into objects. A handle is its object's address; a stale or
// invented one is found out, and an object in use outlives its destruction by another thread.
#pragma once

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

namespace softgpu {

/// Thread-safe.
template <class Object>
class HandleTable {
 public:
  /// Registers an object; its handle is its address.
  Object* add(std::shared_ptr<Object> object) {
    Object* const handle = object.get();
    const std::unique_lock lock(mutex_);
    objects_.emplace(handle, std::move(object));
    return handle;
  }

  /// The object of a handle of any CUDA handle type, or nullptr.
  template <class Handle>
  std::shared_ptr<Object> find(Handle handle) const {
    const std::shared_lock lock(mutex_);
    const auto found = objects_.find(static_cast<const void*>(handle));
    return found == objects_.end() ? nullptr : found->second;
  }

  /// Takes the object out: its handle is unknown from here on.
  template <class Handle>
  std::shared_ptr<Object> remove(Handle handle) {
    const std::unique_lock lock(mutex_);
    const auto found = objects_.find(static_cast<const void*>(handle));
    if (found == objects_.end()) return nullptr;
    std::shared_ptr<Object> object = std::move(found->second);
    objects_.erase(found);
    return object;
  }

  std::vector<std::shared_ptr<Object>> all() const {
    std::vector<std::shared_ptr<Object>> objects;
    const std::shared_lock lock(mutex_);
    objects.reserve(objects_.size());
    for (const auto& [handle, object] : objects_) objects.push_back(object);
    return objects;
  }

  /// Takes out all objects for which `chosen` is true.
  template <class Predicate>
  std::vector<std::shared_ptr<Object>> remove_if(Predicate chosen) {
    std::vector<std::shared_ptr<Object>> removed;
    const std::unique_lock lock(mutex_);
    for (auto entry = objects_.begin(); entry != objects_.end();) {
      if (chosen(*entry->second)) {
        removed.push_back(std::move(entry->second));
        entry = objects_.erase(entry);
      } else {
        ++entry;
      }
    }
    return removed;
  }

 private:
  mutable std::shared_mutex mutex_;
  std::unordered_map<const void*, std::shared_ptr<Object>> objects_;
};

}  // namespace softgpu
