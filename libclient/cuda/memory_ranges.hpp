// What the client knows of the memory it uses through CUDA: device allocations, reserved address ranges,
// pinned, registered and managed host memory, module globals. Answers pointer attributes and infers the
// direction of a copy without asking the worker. Never: touches the memory, or decides what the worker may do
// (the worker checks for itself).
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <vector>

namespace cudaabi {
class ManagedAdvice;
}

namespace vgpu::client {

enum class MemoryKind : std::uint8_t {
  device,      ///< cuMemAlloc, cuMemAllocPitch
  async,       ///< cuMemAllocAsync and pools, other processes' ones too
  reserved,    ///< cuMemAddressReserve
  mapped,      ///< cuMemMap into a reserved range
  global,      ///< a module's __device__ or __constant__ variable
  pinned,      ///< cuMemHostAlloc, cuMemAllocHost
  registered,  ///< cuMemHostRegister
  managed,     ///< cuMemAllocManaged, __managed__
  imported,    ///< cuIpcOpenMemHandle: another process's
};

/// One tracked range [base, base + size).
struct MemoryRange {
  std::uint64_t base = 0;
  std::uint64_t size = 0;
  MemoryKind kind = MemoryKind::device;
  std::uint32_t flags = 0;    ///< of the call that made it (cuMemHostAlloc, cuMemAllocManaged)
  int ordinal = 0;            ///< on or for which of the process's devices
  std::uint64_t context = 0;  ///< the CUcontext it was made in
  std::uint64_t owner = 0;    ///< the pool, allocation or module handle it belongs to; 0 if none
  std::uint64_t device =
      0;  ///< of host memory: its address in the worker and on the device, or 0: neither sees it
  std::uint64_t id = 0;            ///< CU_POINTER_ATTRIBUTE_BUFFER_ID, set by insert()
  std::uint64_t mapping_size = 0;  ///< bytes of the client's own mapping behind it, for its release
  int file = -1;             ///< of registered memory: what its pages are now; the range's owner closes it
  bool of_graph = false;     ///< a graph allocates it anew at each launch, here: a free does not end it
  bool sync_memops = false;  ///< CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
  std::shared_ptr<cudaabi::ManagedAdvice> advice;  ///< of managed memory: what was said of it
};

/// True for memory that this process can read and write at the range's addresses.
constexpr bool is_host(MemoryKind kind) {
  return kind == MemoryKind::pinned || kind == MemoryKind::registered || kind == MemoryKind::managed;
}

/// A set of ranges that do not overlap within one layer. Reserved address ranges form a layer of their own,
/// since other ranges are mapped into them. All functions are thread-safe.
class MemoryRanges {
 public:
  /// Adds a range, giving it a new id; one at the same base and layer is replaced. A size of 0 is not kept.
  void insert(MemoryRange range);

  /// Removes the range that starts at exactly `base` (reserved ones only where `reserved`); returns what was
  /// removed.
  std::optional<MemoryRange> remove(std::uint64_t base, bool reserved = false);

  /// Removes every range of `kind` whose owner is `owner`, for a module's globals at unload.
  void remove_owned(MemoryKind kind, std::uint64_t owner);

  /// Removes the ranges of `kind` that lie in [base, base + size).
  void remove_within(MemoryKind kind, std::uint64_t base, std::uint64_t size);

  /// Removes every range made in `context`, except reserved ones and registered or pinned host memory that
  /// outlives it.
  void remove_context(std::uint64_t context);

  /// The range that contains `address`; reserved ranges only where nothing is mapped there.
  std::optional<MemoryRange> find(std::uint64_t address) const;

  /// The same, and whether `other` lies in a range that is no host memory: one lock for both.
  std::optional<MemoryRange> find(std::uint64_t address, std::uint64_t other, bool& other_is_device) const;

  /// The reserved range that contains `address`.
  std::optional<MemoryRange> find_reserved(std::uint64_t address) const;

  /// The pinned, registered or managed range that holds [address, address + size) whole.
  std::optional<MemoryRange> find_host(std::uint64_t address, std::uint64_t size) const;

  /// True if any host range overlaps [address, address + size).
  bool overlaps_host(std::uint64_t address, std::uint64_t size) const;

  /// True if there is any registered range: other host ranges lie in the host window and need no lookup.
  /// Takes no lock.
  bool has_registered() const { return registered_.load(std::memory_order_acquire) != 0; }

  /// Sets SYNC_MEMOPS on the range that contains `address`; false if there is none.
  bool set_sync_memops(std::uint64_t address, bool value);

  /// Around a fork, so that the child finds the ranges whole. It cannot unlock: the lock is another thread's.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

  /// Removes everything and returns it, in the child of a fork that lock() preceded.
  std::vector<MemoryRange> take_all();

 private:
  using Layer = std::map<std::uint64_t, MemoryRange>;
  static const MemoryRange* lookup(const Layer& layer, std::uint64_t address);
  const MemoryRange* lookup(std::uint64_t address) const;

  mutable std::shared_mutex mutex_;
  Layer ranges_;
  Layer reserved_;
  std::uint64_t next_id_ = 1;
  std::atomic<std::uint32_t> registered_{0};
};

}  // namespace vgpu::client
