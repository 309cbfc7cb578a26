// The memory of the software GPU's devices: allocations inside the one device window, with the accounting
// that cuMemGetInfo reports for each device.
//
// Whose memory it is decides only what it is counted against: all of it is in this process's address space.
// Every allocation has whole pages of its own and, while there are few, a page without access behind it, so
// that a kernel's stray access faults. Pages cost nothing until they are touched; freed ranges become holes.
// It never waits for kernels: the caller frees only what no running work uses.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <tl/expected.hpp>
#include <vector>

#include "softgpu/memory/address_ranges.hpp"
#include "softgpu/memory/physical_memory.hpp"
#include "softgpu/memory/pool_file.hpp"

namespace softgpu {

inline constexpr int max_devices = 8;

enum class MemoryKind : std::uint8_t {
  device,      ///< cuMemAlloc, module variables
  pool,        ///< cuMemAllocAsync, cuMemPoolImportPointer
  managed,     ///< cuMemAllocManaged
  host,        ///< cuMemHostAlloc: not counted as device memory
  registered,  ///< cuMemHostRegister: not ours, outside the window
  mapped,      ///< cuMemMap
  array,       ///< cuArrayCreate: reached by copies, textures and surfaces
  imported,    ///< cuIpcOpenMemHandle: another process's, which accounts for it
};

enum class MemoryError : std::uint8_t { out_of_memory, invalid, not_found, exists };

/// One allocation, by value: what a pointer query reports.
struct Allocation {
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;  ///< as asked for
  MemoryKind kind = MemoryKind::device;
  std::uint32_t flags = 0;      ///< as given at creation (host and managed memory)
  std::uint64_t id = 0;         ///< never used twice in this process
  const void* owner = nullptr;  ///< the context, or whatever the driver wants to remember
  const void* pool = nullptr;   ///< of MemoryKind::pool
  bool accessible = true;       ///< false for a mapping without access
  int device = 0;               ///< whose memory it is
  bool contains(std::uint64_t address, std::uint64_t count) const {
    return address >= base && address - base <= bytes && bytes - (address - base) >= count;
  }
};

/// What allocate() may be told besides.
struct AllocationOptions {
  std::uint32_t flags = 0;
  int device = 0;
  const void* pool = nullptr;
  PoolFile* file = nullptr;  ///< the memory is a piece of it
};

/// Thread-safe. Devices are numbers below max_devices; the caller knows which ones there are.
class DeviceMemory {
 public:
  static constexpr std::uint64_t mapping_granularity = std::uint64_t{2} << 20;

  /// `total` bytes of memory a device. The window is reserved at the first use.
  explicit DeviceMemory(std::uint64_t total);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  std::uint64_t total() const { return total_; }
  std::uint64_t used(int device = 0) const;
  std::uint64_t free_bytes(int device = 0) const;

  /// Zeroed memory, at least page-aligned (large ones at 2 MiB).
  tl::expected<std::uint64_t, MemoryError> allocate(std::uint64_t bytes, MemoryKind kind, const void* owner,
                                                    const AllocationOptions& options = {});
  /// Frees what allocate() returned, if it is of one of these kinds; `base` must be its first byte.
  tl::expected<void, MemoryError> release(std::uint64_t base, std::initializer_list<MemoryKind> kinds);
  /// Frees everything of this owner, mappings and registrations included.
  void release_owner(const void* owner);

  /// Moves what allocate() returned as MemoryKind::device into a memfd, at the same address, so that other
  /// processes can map it; once, later calls return the same. Nothing may read or write it meanwhile.
  tl::expected<std::shared_ptr<PhysicalMemory>, MemoryError> share(std::uint64_t base);
  /// Maps memory of another process, `bytes` of it, as MemoryKind::imported. Not counted as used here.
  tl::expected<std::uint64_t, MemoryError> attach(std::shared_ptr<PhysicalMemory> memory, std::uint64_t bytes,
                                                  const void* owner);
  /// The same of a pool's file, from `offset` on, as MemoryKind::pool.
  tl::expected<std::uint64_t, MemoryError> attach_piece(std::shared_ptr<PhysicalMemory> memory,
                                                        std::uint64_t offset, std::uint64_t bytes,
                                                        const void* owner, const void* pool);
  /// What the caller remembers with the allocation at `base`, until it is freed: made at the first use. Null
  /// when there is no such allocation.
  std::shared_ptr<void> note(std::uint64_t base, std::shared_ptr<void> (*make)());
  /// Where in its pool's file memory lies that allocate() took from one.
  std::optional<std::uint64_t> offset_in_file(std::uint64_t base) const;

  /// Lets kernels and copies use host memory of this process.
  tl::expected<void, MemoryError> register_host(std::uint64_t address, std::uint64_t bytes, const void* owner,
                                                std::uint32_t flags, int device = 0);
  tl::expected<void, MemoryError> unregister_host(std::uint64_t address);

  /// The allocation that holds `address`.
  std::optional<Allocation> find(std::uint64_t address) const;
  /// True when all of [address, address+bytes) can be accessed; ranges may span adjacent mappings.
  bool accessible(std::uint64_t address, std::uint64_t bytes) const;

  // Virtual memory management: reservations of addresses, memory, and mappings of one in the other.

  /// Counts `bytes` as used by the device until the last reference is gone.
  tl::expected<std::shared_ptr<PhysicalMemory>, MemoryError> create_physical(std::uint64_t bytes,
                                                                             int device = 0);
  /// Reserves addresses; at `wish` if that is free, else anywhere.
  tl::expected<std::uint64_t, MemoryError> reserve(std::uint64_t bytes, std::uint64_t align,
                                                   std::uint64_t wish);
  tl::expected<void, MemoryError> unreserve(std::uint64_t address, std::uint64_t bytes);
  tl::expected<void, MemoryError> map(std::uint64_t address, std::uint64_t bytes, std::uint64_t offset,
                                      std::shared_ptr<PhysicalMemory> memory, const void* owner);
  tl::expected<void, MemoryError> unmap(std::uint64_t address, std::uint64_t bytes);
  enum class Access : std::uint8_t { none, read, read_write };
  /// What `device` may do. The pages are the process's, so what one device may do no other is kept from.
  tl::expected<void, MemoryError> set_access(std::uint64_t address, std::uint64_t bytes, Access access,
                                             int device = 0);
  /// What is mapped at an address, and with which access for each device.
  struct Mapping {
    std::shared_ptr<PhysicalMemory> memory;
    std::array<Access, max_devices> access{};
  };
  std::optional<Mapping> mapping(std::uint64_t address) const;
  /// The reservation around an address: {base, bytes}.
  std::optional<std::pair<std::uint64_t, std::uint64_t>> reservation(std::uint64_t address) const;

 private:
  struct Block : Allocation {
    std::uint64_t span = 0;  // bytes of the window taken: pages and guard
    std::uint64_t charge = 0;
    Mapping mapped;  // memory alone where the block was shared or attached
    std::shared_ptr<const PoolFile::Piece> piece;
    std::shared_ptr<void> note;
  };
  using Blocks = std::map<std::uint64_t, Block>;
  // Maps block.mapped.memory from `offset` on.
  tl::expected<std::uint64_t, MemoryError> attach(Block block, std::uint64_t offset);

  bool open_window();
  const Block* block_at(std::uint64_t address) const;
  void drop(Blocks::iterator block);
  /// First and one past the last mapping that together cover exactly this range, or {end, end}.
  std::pair<Blocks::iterator, Blocks::iterator> mappings(std::uint64_t address, std::uint64_t bytes);

  const std::uint64_t total_;
  mutable std::shared_mutex mutex_;
  bool opened_ = false;
  bool open_failed_ = false;
  AddressRanges addresses_;
  Blocks blocks_;
  std::map<std::uint64_t, std::uint64_t> reservations_;
  std::uint64_t next_id_ = 1;
  // By device; shared with the deleters of physical memory, which may outlive this object.
  using Counts = std::array<std::atomic<std::uint64_t>, max_devices>;
  std::shared_ptr<Counts> used_;
};

/// Memory that each of `devices` devices offers: SOFTGPU_MEMORY ("512M", "4G") if set and sensible, else its
/// share of half of this machine's memory (or of its cgroup's limit), at most 64 GiB.
std::uint64_t configured_device_memory(int devices = 1);

}  // namespace softgpu
