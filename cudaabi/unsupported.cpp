#include "cudaabi/unsupported.hpp"

#include <cuda.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "cudaabi/symbol_table.hpp"

namespace cudaabi {
namespace {

constexpr std::size_t max_symbols = 1024;

// Calls may come from any thread at any time, also while the process exits: nothing here is ever destroyed.
struct Counts {
  std::array<std::atomic<std::uint64_t>, max_symbols> by_index{};
  std::mutex mutex;
  std::map<std::string, std::uint64_t, std::less<>> by_name;
  std::atomic<UnsupportedObserver> observer{nullptr};
};

Counts& counts() {
  static Counts& instance = *new Counts;
  return instance;
}

void announce(const char* name) {
  if (UnsupportedObserver observer = counts().observer.load(std::memory_order_acquire)) observer(name);
  if (std::getenv("VGPU_LOG") != nullptr) std::fprintf(stderr, "vgpu: %s is not supported\n", name);
}

}  // namespace

int note_unsupported(unsigned index) {
  if (index < max_symbols && counts().by_index[index].fetch_add(1, std::memory_order_relaxed) == 0) {
    announce(symbol_names()[index]);
  }
  return CUDA_ERROR_NOT_SUPPORTED;
}

int note_unsupported(std::string_view name) {
  Counts& all = counts();
  const char* first = nullptr;
  {
    std::lock_guard lock(all.mutex);
    auto found = all.by_name.find(name);
    if (found == all.by_name.end()) {
      found = all.by_name.emplace(std::string(name), 0).first;
      first = found->first.c_str();
    }
    ++found->second;
  }
  if (first != nullptr) announce(first);
  return CUDA_ERROR_NOT_SUPPORTED;
}

std::vector<std::pair<std::string_view, std::uint64_t>> unsupported_counts() {
  std::vector<std::pair<std::string_view, std::uint64_t>> result;
  Counts& all = counts();
  const auto names = symbol_names();
  for (std::size_t i = 0; i < names.size() && i < max_symbols; ++i) {
    const std::uint64_t count = all.by_index[i].load(std::memory_order_relaxed);
    if (count != 0) result.emplace_back(names[i], count);
  }
  std::lock_guard lock(all.mutex);
  for (const auto& [name, count] : all.by_name) result.emplace_back(name, count);
  return result;
}

void set_unsupported_observer(UnsupportedObserver observer) {
  counts().observer.store(observer, std::memory_order_release);
}

}  // namespace cudaabi
