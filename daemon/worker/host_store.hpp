// Host memory that holds what was moved out of a device, and the threads that carry it there and back. Each
// takes huge pages for a piece of it, pins them and lets the device copy, while the others do the same: so
// the first move, too, goes at the bus's speed (docs/decisions.md, 71).
//
// Knows bytes and addresses; not whose they are.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// One thread at a time.
class HostStore {
 public:
  /// A range of device memory and where in the store its bytes belong.
  struct Piece {
    CUdeviceptr device = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };

  HostStore(const DriverTable& driver, CUcontext context);
  ~HostStore();
  HostStore(const HostStore&) = delete;
  HostStore& operator=(const HostStore&) = delete;

  /// Makes the store `bytes` long, or longer by less than a chunk; what stood in it stays as far as it fits.
  /// False when the machine has no memory.
  bool resize(std::uint64_t bytes);
  /// Copies from the device into the store; returns when all has been copied.
  CUresult save(std::span<const Piece> pieces);
  /// The other way round.
  CUresult restore(std::span<const Piece> pieces);
  /// Gives back what lies before `offset`: it is not needed any more.
  void forget_before(std::uint64_t offset);
  std::uint64_t bytes() const { return bytes_; }

 private:
  struct Chunk {
    std::byte* data = nullptr;
    std::uint64_t begin = 0;  // in the store
    std::uint64_t bytes = 0;
    bool pinned = false;
    bool empty = true;  // its pages are not taken
  };
  /// What a piece has in one chunk.
  struct Item {
    CUdeviceptr device = 0;
    std::byte* host = nullptr;
    std::uint64_t bytes = 0;
    Chunk* chunk = nullptr;
  };

  CUresult copy(std::span<const Piece> pieces, bool out);
  std::vector<std::vector<Item>> items_of(std::span<const Piece> pieces);
  CUresult make_streams();
  CUresult run_lane(CUstream stream, const std::vector<std::vector<Item>>& work,
                    std::atomic<std::size_t>& next, bool out) const;
  void prepare(Chunk& chunk) const;
  void drop_last();

  const DriverTable& driver_;
  const CUcontext context_;
  std::vector<Chunk> chunks_;
  std::uint64_t bytes_ = 0;
  std::vector<CUstream> streams_;  // one a thread that copies
};

}  // namespace vgpu::worker
