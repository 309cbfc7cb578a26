// Ownership of one block of the channel's bulk arena in the client. Never waits, except for room in the
// arena.
#pragma once

#include <cstdint>
#include <utility>

#include "libclient/cuda/connection.hpp"

namespace vgpu::client {

/// An arena block that goes back when it is done with.
class ArenaLease {
 public:
  ArenaLease() = default;
  ArenaLease(Connection& connection, std::uint64_t bytes)
      : arena_(&connection.arena()), block_(connection.allocate(bytes)) {}
  /// One without waiting: empty when there is no room now.
  static ArenaLease if_room(Connection& connection, std::uint64_t bytes) {
    ArenaLease lease;
    lease.arena_ = &connection.arena();
    lease.block_ = lease.arena_->allocate(bytes);
    return lease;
  }
  ArenaLease(ArenaLease&& other) noexcept
      : arena_(other.arena_), block_(std::exchange(other.block_, nullptr)) {}
  ArenaLease& operator=(ArenaLease&& other) noexcept {
    std::swap(arena_, other.arena_);
    std::swap(block_, other.block_);
    return *this;
  }
  ArenaLease(const ArenaLease&) = delete;
  ArenaLease& operator=(const ArenaLease&) = delete;
  /// Frees it once the worker no longer uses it.
  ~ArenaLease() {
    if (block_ == nullptr) return;
    if (block_done(*block_)) {
      arena_->free(block_);
    } else {
      arena_->free_when_done(block_);
    }
  }

  explicit operator bool() const { return block_ != nullptr; }
  std::byte* data() const { return Arena::data(block_); }
  ArenaBlock& header() const { return *block_; }
  ArenaSpan span(std::uint64_t bytes) const { return {arena_->offset(block_), bytes}; }
  /// The record that would have completed it was not sent.
  void discard() {
    arena_->free(block_);
    block_ = nullptr;
  }

 private:
  Arena* arena_ = nullptr;
  ArenaBlock* block_ = nullptr;
};

}  // namespace vgpu::client
