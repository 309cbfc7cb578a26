// Device memory of one client that can be moved to the host's memory and back, at addresses that stay. Each
// large allocation is memory of its own (cuMemCreate), mapped into reserved addresses; small ones share such
// memory, as the driver's smallest unit is 2 MiB.
//
// Knows the driver; neither when to move (session_residence.cpp) nor how much may lie on the device.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "daemon/worker/host_store.hpp"
#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// Thread-safe, but for moves: nothing may use the memory meanwhile.
class MovableMemory {
 public:
  MovableMemory(const DriverTable& driver, CUdevice device, CUcontext context);
  ~MovableMemory();
  MovableMemory(const MovableMemory&) = delete;
  MovableMemory& operator=(const MovableMemory&) = delete;

  /// Whether driver and device have what this needs.
  static bool supported(const DriverTable& driver, CUdevice device);

  /// By how much an allocation would increase bytes().
  std::uint64_t growth(std::uint64_t bytes) const;
  /// Only while it is not out().
  CUresult allocate(std::uint64_t bytes, CUdeviceptr& pointer);
  /// Whether `pointer` begins an allocation of here.
  bool owns(CUdeviceptr pointer) const;
  /// Frees it, wherever it lies. `less`: by how much bytes() has become less. The driver may wait for work
  /// that has been submitted; nobody else does meanwhile.
  CUresult release(CUdeviceptr pointer, std::uint64_t& less);

  /// What it takes of the device, or of the host while it is out().
  std::uint64_t bytes() const;
  bool out() const { return out_.load(); }
  /// Of bytes(), what is not on the device.
  std::uint64_t bytes_out() const;
  /// Moves all of it out, part by part: `moved` is told of each one that has left the device. When it fails,
  /// some of it may have been moved.
  CUresult move_out(const std::function<void(std::uint64_t bytes)>& moved);
  /// The size of the part that move_in() brings next; 0: all is there.
  std::uint64_t next_in();
  /// Brings the next part. CUDA_ERROR_OUT_OF_MEMORY: there is no room for it, nothing has changed. `keep`:
  /// the host memory is kept for the next time.
  CUresult move_in(bool keep);

 private:
  /// The least that is moved by itself.
  struct Block {
    std::uint64_t bytes = 0;
    CUmemGenericAllocationHandle memory = 0;  // 0: it is not on the device
    std::uint64_t place = 0;                  // in the store, while anything is out
  };
  struct Extent {
    std::uint64_t bytes = 0;
    std::vector<Block> blocks;                     // one behind the other
    bool shared = false;                           // by small allocations
    std::map<std::uint64_t, std::uint64_t> holes;  // of a shared one: address -> bytes
  };
  using Extents = std::map<std::uint64_t, Extent>;
  /// A block and where it lies.
  struct Place {
    std::uint64_t address = 0;
    Block* block = nullptr;
  };

  CUresult bring(std::uint64_t address, Block& block);
  CUresult drop(std::uint64_t address, Block& block);
  void drop_all(std::uint64_t address, Extent& extent);
  /// The next blocks that are on the device, or are not: a part of all.
  std::vector<Place> next_part(bool on_device);
  CUresult add_extent(std::uint64_t bytes, Extents::iterator& extent);
  bool take_hole(std::uint64_t bytes, CUdeviceptr& pointer);
  void give_hole(Extents::iterator extent, std::uint64_t address, std::uint64_t bytes);
  bool has_hole(std::uint64_t bytes) const;
  std::uint64_t rounded(std::uint64_t bytes) const;

  const DriverTable& driver_;
  const CUdevice device_;
  std::uint64_t unit_ = std::uint64_t{2} << 20;   // the driver's granularity
  std::uint64_t block_ = std::uint64_t{2} << 20;  // the longest block
  mutable std::mutex mutex_;
  Extents extents_;                               // by address
  std::map<std::uint64_t, std::uint64_t> small_;  // address -> bytes taken of a shared extent
  std::uint64_t bytes_ = 0;
  std::uint64_t bytes_out_ = 0;
  std::atomic<bool> out_{false};
  HostStore store_;
};

}  // namespace vgpu::worker
