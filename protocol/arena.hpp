// The client's allocator over a channel's bulk arena (Boost.Interprocess, external buffer). The worker never
// uses it: it only checks that the offsets it is given lie inside the arena.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "protocol/channel.hpp"

namespace vgpu {

/// Allocates blocks in the arena. Thread-safe. One for each channel, in the client.
class Arena {
 public:
  explicit Arena(std::span<std::byte> memory);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// An ArenaBlock with `bytes` of data behind it (data 64-byte aligned), or nullptr when there is no room
  /// now.
  ArenaBlock* allocate(std::uint64_t bytes);
  void free(ArenaBlock* block);
  /// Frees the block when the worker has completed it: looked at by later allocate() and collect() calls.
  void free_when_done(ArenaBlock* block);
  /// Frees the blocks handed to free_when_done() that are done; how many are still under way.
  std::size_t collect();

  static std::byte* data(ArenaBlock* block) { return reinterpret_cast<std::byte*>(block + 1); }
  /// What a record's ArenaSpan holds for this block with `bytes` of data: offset of the block's header in the
  /// arena.
  std::uint64_t offset(const ArenaBlock* block) const;
  /// The largest data size that an allocation can ever have.
  std::uint64_t largest() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The worker's check: the block at `offset` with `bytes` of data, or nullptr when any of it lies outside.
ArenaBlock* block_at(std::span<std::byte> arena, std::uint64_t offset, std::uint64_t bytes);

}  // namespace vgpu
