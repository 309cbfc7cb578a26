#include "cudaabi/context_storage.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <utility>
#include <vector>

namespace cudaabi {
namespace {

struct Value {
  void* value;
  StorageDestructor destructor;
};

// Read once an API call of the runtime, written at start-up; outlives static destruction because runtimes
// delete their keys while the process exits.
struct Storage {
  std::shared_mutex mutex;
  std::map<std::pair<CUcontext, void*>, Value> values;
  std::atomic<std::uint64_t> changes{1};  // grows, under the mutex, before what was there goes
};

Storage& storage() {
  static Storage& instance = *new Storage;
  return instance;
}

// What this thread found last, valid as long as nothing has changed: two locked instructions fewer for each
// launch. One entry for each of several runtimes in a process.
struct Found {
  std::uint64_t changes = 0;
  CUcontext context = nullptr;
  void* key = nullptr;
  void* value = nullptr;
};

Found& found_last(const void* key) {
  thread_local std::array<Found, 4> found;
  return found[reinterpret_cast<std::uintptr_t>(key) / 64 % found.size()];
}

}  // namespace

void context_storage_put(CUcontext context, void* key, void* value, StorageDestructor destructor) {
  Storage& all = storage();
  std::unique_lock lock(all.mutex);
  all.changes.fetch_add(1, std::memory_order_acq_rel);
  all.values[{context, key}] = Value{value, destructor};
}

CUresult context_storage_get(CUcontext context, void* key, void** value) {
  Storage& all = storage();
  Found& last = found_last(key);
  if (last.changes == all.changes.load(std::memory_order_acquire) && last.context == context &&
      last.key == key) {
    *value = last.value;
    return CUDA_SUCCESS;
  }
  std::shared_lock lock(all.mutex);
  const auto found = all.values.find({context, key});
  if (found == all.values.end()) return CUDA_ERROR_INVALID_HANDLE;
  last = {all.changes.load(std::memory_order_relaxed), context, key, found->second.value};
  *value = found->second.value;
  return CUDA_SUCCESS;
}

CUresult context_storage_delete(CUcontext context, void* key) {
  Storage& all = storage();
  std::unique_lock lock(all.mutex);
  all.changes.fetch_add(1, std::memory_order_acq_rel);
  return all.values.erase({context, key}) != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

void context_storage_drop(CUcontext context) {
  Storage& all = storage();
  std::vector<std::pair<void*, Value>> dropped;
  {
    std::unique_lock lock(all.mutex);
    all.changes.fetch_add(1, std::memory_order_acq_rel);
    const auto first = all.values.lower_bound({context, nullptr});
    auto last = first;
    for (; last != all.values.end() && last->first.first == context; ++last) {
      dropped.emplace_back(last->first.second, last->second);
    }
    all.values.erase(first, last);
  }
  // Destructors may use the storage again, so they run without the lock.
  for (const auto& [key, value] : dropped) {
    if (value.destructor != nullptr) value.destructor(context, key, value.value);
  }
}

}  // namespace cudaabi
