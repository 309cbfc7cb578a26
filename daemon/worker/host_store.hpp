// Host memory that holds what was moved out of a device, and the threads that carry it there and back. It is
// pinned after it has been filled, while nobody waits: pinning 16 GiB takes seconds, copying them does not,
// if a few threads copy through small pinned buffers. Once pinned, it is copied to and from directly.
//
// Knows bytes and addresses; not whose they are.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
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
  /// Pins what is not pinned yet, in a thread of its own, until all is or the next call of this object.
  void pin_meanwhile();
  std::uint64_t bytes() const { return bytes_; }

 private:
  struct Chunk {
    std::byte* data = nullptr;
    std::uint64_t begin = 0;  // in the store
    std::uint64_t bytes = 0;
    bool pinned = false;
    bool empty = true;  // its pages are not taken
  };
  /// What lies in one chunk of a piece.
  struct Item {
    CUdeviceptr device = 0;
    std::byte* host = nullptr;
    std::uint64_t bytes = 0;
    bool pinned = false;
  };
  /// One copying thread's tools.
  struct Lane {
    CUstream stream = nullptr;
    CUevent events[2] = {};
    std::byte* buffers[2] = {};
  };

  CUresult copy(std::span<const Piece> pieces, bool out);
  std::vector<Item> items_of(std::span<const Piece> pieces);
  CUresult make_lanes();
  CUresult run_lane(Lane& lane, const std::vector<Item>& items, std::atomic<std::size_t>& next,
                    bool out) const;
  CUresult copy_item(Lane& lane, const Item& item, bool out) const;
  CUresult stage_out(Lane& lane, const Item& item) const;
  CUresult stage_in(Lane& lane, const Item& item) const;
  void drop_last();
  void stop_pinning();

  const DriverTable& driver_;
  const CUcontext context_;
  std::vector<Chunk> chunks_;
  std::uint64_t bytes_ = 0;
  std::vector<Lane> lanes_;
  std::thread pinner_;
  std::atomic<bool> stop_pinning_{false};
};

}  // namespace vgpu::worker
