// The memory of a pool that other processes may map: one memfd, of which each allocation is a piece. The file
// is sparse, so what no allocation uses costs nothing. Never: maps anything.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <tl/expected.hpp>

#include "softgpu/memory/address_ranges.hpp"
#include "softgpu/memory/physical_memory.hpp"

namespace softgpu {

/// Thread-safe; lives as long as it or a piece of it is held.
class PoolFile : public std::enable_shared_from_this<PoolFile> {
 public:
  /// Part of the file, given back at the end of its life: its memory goes, and whoever still maps it sees
  /// zeros.
  class Piece {
   public:
    Piece(std::shared_ptr<PoolFile> file, std::uint64_t offset, std::uint64_t bytes)
        : file_(std::move(file)), offset_(offset), bytes_(bytes) {}
    ~Piece();
    Piece(const Piece&) = delete;
    Piece& operator=(const Piece&) = delete;
    std::uint64_t offset() const { return offset_; }
    int fd() const { return file_->fd(); }

   private:
    std::shared_ptr<PoolFile> file_;
    std::uint64_t offset_;
    std::uint64_t bytes_;
  };

  /// A file with room for `bytes`; errno when there is none.
  static tl::expected<std::shared_ptr<PoolFile>, int> create(std::uint64_t bytes);

  /// `bytes` (whole pages) of zeroed memory; null when the file has no such hole.
  std::shared_ptr<const Piece> take(std::uint64_t bytes);
  /// Stays owned by this object.
  int fd() const { return memory_->fd(); }

 private:
  explicit PoolFile(std::shared_ptr<PhysicalMemory> memory)
      : memory_(std::move(memory)), ranges_(0, memory_->bytes()) {}

  std::shared_ptr<PhysicalMemory> memory_;
  std::mutex mutex_;
  AddressRanges ranges_;
};

}  // namespace softgpu
