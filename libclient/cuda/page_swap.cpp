#include "libclient/cuda/page_swap.hpp"

#include <sys/mman.h>

#include <array>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <memory>

namespace vgpu::client {
namespace {

// Copies the pages into `fresh` and moves that over them, in one step for every other thread.
bool replace(std::uint64_t begin, std::uint64_t size, void* fresh) {
  auto* const target = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr): pages by address
  std::memcpy(fresh, target, size);
  if (mremap(fresh, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, target) == MAP_FAILED) {
    munmap(fresh, size);
    return false;
  }
  return true;
}

}  // namespace

bool can_swap_pages(std::uint64_t begin, std::uint64_t size, std::uint64_t data, std::uint64_t bytes) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> maps(std::fopen("/proc/self/maps", "re"),
                                                             &std::fclose);
  if (!maps) return false;
  const bool whole = begin == data && size == bytes;
  std::uint64_t covered = begin;
  std::array<char, 512> line{};
  while (covered < begin + size && std::fgets(line.data(), line.size(), maps.get()) != nullptr) {
    std::uint64_t from = 0;
    std::uint64_t to = 0;
    std::uint64_t inode = 0;
    std::array<char, 5> access{};
    int name = 0;
    // Format: proc(5), /proc/pid/maps.
    if (std::sscanf(line.data(), "%" SCNx64 "-%" SCNx64 " %4s %*x %*x:%*x %" SCNu64 " %n", &from, &to,
                    access.data(), &inode, &name) < 4) {
      continue;
    }
    if (to <= covered) continue;
    if (from > covered) return false;
    if (inode != 0 || access[0] != 'r' || access[1] != 'w' || access[3] != 'p') return false;
    const char* label = line.data() + name;
    const bool shared_with_others = label[0] == '[' && std::strncmp(label, "[anon", 5) != 0;
    if (shared_with_others && !whole) return false;
    if (std::strncmp(label, "[stack", 6) == 0) return false;
    covered = to;
  }
  return covered >= begin + size;
}

bool swap_pages_for_file(std::uint64_t begin, std::uint64_t size, int file) {
  void* fresh = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  return fresh != MAP_FAILED && replace(begin, size, fresh);
}

bool part_with_file(std::uint64_t begin, std::uint64_t size, int file) {
  auto* const target = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr): pages by address
  return mmap(target, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) != MAP_FAILED;
}

bool swap_pages_for_private(std::uint64_t begin, std::uint64_t size) {
  void* fresh = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return fresh != MAP_FAILED && replace(begin, size, fresh);
}

}  // namespace vgpu::client
