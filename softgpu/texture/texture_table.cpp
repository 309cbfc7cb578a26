#include "softgpu/texture/texture.hpp"

namespace softgpu {
namespace {
// A handle: index + 1 in the low half, the generation above; never 0, and a surface's never a texture's.
constexpr unsigned generation_shift = 32;
constexpr std::uint32_t most_generations = 0xffffff;
}  // namespace

TextureTable& TextureTable::get() {
  static auto* const instance = new TextureTable;  // kernels may run while the process exits
  return *instance;
}

TextureTable::Entry* TextureTable::entry(std::uint64_t handle) const {
  const std::uint64_t index = (handle & 0xffffffffU) - 1;
  if (index >= std::uint64_t{chunks} * chunk_entries) return nullptr;
  Entry* const chunk = chunks_[index / chunk_entries].load(std::memory_order_acquire);
  return chunk != nullptr ? &chunk[index % chunk_entries] : nullptr;
}

std::uint64_t TextureTable::add(const Texture& texture, bool surface) {
  const std::lock_guard lock(mutex_);
  std::uint32_t index = 0;
  if (!free_.empty()) {
    index = free_.back();
    free_.pop_back();
  } else {
    if (next_ == chunks * chunk_entries) return 0;
    index = next_++;
    auto& chunk = chunks_[index / chunk_entries];
    if (chunk.load(std::memory_order_relaxed) == nullptr) {
      owned_.push_back(std::make_unique<Entry[]>(chunk_entries));
      chunk.store(owned_.back().get(), std::memory_order_release);
    }
  }
  Entry& entry = chunks_[index / chunk_entries].load(std::memory_order_relaxed)[index % chunk_entries];
  entry.texture = texture;
  entry.surface = surface;
  const std::uint64_t handle = std::uint64_t{entry.generation} << generation_shift | (index + 1);
  entry.handle.store(handle, std::memory_order_release);
  return handle;
}

bool TextureTable::remove(std::uint64_t handle, bool surface) {
  const std::lock_guard lock(mutex_);
  Entry* const found = entry(handle);
  if (found == nullptr || found->handle.load(std::memory_order_relaxed) != handle ||
      found->surface != surface) {
    return false;
  }
  found->handle.store(0, std::memory_order_release);
  found->generation = (found->generation + 1) & most_generations;
  free_.push_back(static_cast<std::uint32_t>((handle & 0xffffffffU) - 1));
  return true;
}

const Texture* TextureTable::find(std::uint64_t handle, bool surface) const {
  const Entry* const found = handle != 0 ? entry(handle) : nullptr;
  if (found == nullptr || found->handle.load(std::memory_order_acquire) != handle ||
      found->surface != surface) {
    return nullptr;
  }
  return &found->texture;
}

}  // namespace softgpu
