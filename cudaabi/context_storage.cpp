#include "cudaabi/context_storage.hpp"

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

// Read on hot paths (once an API call of the runtime), written at start-up; outlives static destruction
// because runtimes delete their keys while the process exits.
struct Storage {
  std::shared_mutex mutex;
  std::map<std::pair<CUcontext, void*>, Value> values;
};

Storage& storage() {
  static Storage& instance = *new Storage;
  return instance;
}

}  // namespace

void context_storage_put(CUcontext context, void* key, void* value, StorageDestructor destructor) {
  Storage& all = storage();
  std::unique_lock lock(all.mutex);
  all.values[{context, key}] = Value{value, destructor};
}

CUresult context_storage_get(CUcontext context, void* key, void** value) {
  Storage& all = storage();
  std::shared_lock lock(all.mutex);
  const auto found = all.values.find({context, key});
  if (found == all.values.end()) return CUDA_ERROR_INVALID_HANDLE;
  *value = found->second.value;
  return CUDA_SUCCESS;
}

CUresult context_storage_delete(CUcontext context, void* key) {
  Storage& all = storage();
  std::unique_lock lock(all.mutex);
  return all.values.erase({context, key}) != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

void context_storage_drop(CUcontext context) {
  Storage& all = storage();
  std::vector<std::pair<void*, Value>> dropped;
  {
    std::unique_lock lock(all.mutex);
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
