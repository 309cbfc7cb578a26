// Pinned, mapped and managed memory of one guest process, which exists twice: as the process's pages and as
// pages in its slot of BAR2, which the worker has mapped at the same address. This keeps the two equal where
// CUDA's memory model asks for it: before work that may read it is sent, and when the program learns that
// work has ended.
//
// Most such memory is only copied from and to. A region becomes *tracked* when a kernel may touch it (its
// address stands in a launch's parameters, it is managed, a graph names it, a host function may write it):
// from then on a twin remembers what both sides agreed on, and what either changed since is found by
// comparing with it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "protocol/copy_crew.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::stub_guest {

/// One thread.
class HostMemory {
 public:
  /// `arena`: the slot's arena; the part from `begin` on is handed out here. `crew` outlives the object.
  HostMemory(std::span<std::byte> arena, std::uint64_t begin, CopyCrew& crew);
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  /// Room of whole pages in the arena, as an offset; none when there is not enough.
  std::optional<std::uint64_t> take(std::uint64_t bytes);
  void give_back(std::uint64_t offset);
  /// Bytes that are taken, and that there are.
  std::uint64_t used() const { return used_; }
  std::uint64_t size() const { return arena_.size() - begin_; }

  /// A region of the client's, its pages mapped from `fd`, its twin pages at `offset` (from take()). False:
  /// it cannot be mapped.
  bool add(std::uint64_t address, std::uint64_t bytes, int fd, std::uint64_t offset, bool managed);
  /// Where the device sees the region, once that is known.
  void set_device_address(std::uint64_t address, std::uint64_t device);
  /// Forgets a region and gives its room back.
  void remove(std::uint64_t address);
  bool any() const { return !regions_.empty(); }
  bool tracks() const { return tracked_bytes_ != 0; }
  /// Whose [address, address + bytes) is: no region's; that of one which has only been copied from and to so
  /// far; that of one which is tracked.
  enum class Kind : std::uint8_t { other, only_copied, tracked };
  Kind kind(std::uint64_t address, std::uint64_t bytes);
  /// True while so little is tracked that it can be compared all the time.
  bool tracks_little() const { return tracked_bytes_ != 0 && tracked_bytes_ <= kLittle; }

  /// Tracks every region whose address stands among the words of `bytes`; true if one does.
  bool note_addresses(std::span<const std::byte> bytes);
  /// Tracks all regions: something that is not seen here may write to them.
  void track_all();
  /// A copy is about to be sent that reads or writes [address, address + bytes) if that is a region's.
  /// `order`: counts the records. The number of a copy whose bytes the client still has to get, or 0.
  void before_copy_from(std::uint64_t address, std::uint64_t bytes);
  std::uint64_t before_copy_to(std::uint64_t address, std::uint64_t bytes, std::uint64_t stream,
                               std::uint16_t context, std::uint64_t order);
  /// The copy with that number has ended, whether or not the program knows: the client gets its bytes now. Or
  /// it was `refused`: then it keeps its own.
  void ended_copy_to(std::uint64_t number, bool refused);

  /// From now on the end of one stream's work may say something of another's (cuStreamWaitEvent).
  void note_dependency() { dependencies_ = true; }

  /// Sends what the client changed in tracked regions.
  void flush();
  /// Carries what either side changed in tracked regions to the other, whatever anybody knows.
  void compare() {
    flush();
    fetch();
  }
  /// The program is about to learn that what was sent to `stream` before `order` has ended.
  void learned_stream(std::uint64_t stream, std::uint16_t context, std::uint64_t order);
  /// ... that something has ended of which is not known which copies it comprises.
  void learned_something();
  /// ... that everything in `context` before `order` has ended.
  void learned_all(std::uint16_t context, std::uint64_t order);

 private:
  struct Region;
  /// A copy into a region that is not tracked, which the client may not look at before it knows of its end.
  struct Pending {
    Region* region;
    std::uint64_t at, bytes, stream, order, number;
    std::uint16_t context;
  };
  static constexpr std::uint64_t kLittle = 1 << 20;

  Region* find(std::uint64_t address, std::uint64_t bytes, std::uint64_t& at);
  void track(Region& region);
  void copy_in(Region& region, std::uint64_t at, std::uint64_t bytes);
  void fetch();
  void fetch_pending(const Pending& pending);
  template <class Known, class Perhaps>
  void settle(Known&& known, Perhaps&& perhaps);

  CopyCrew& crew_;
  std::span<std::byte> arena_;
  std::uint64_t begin_;
  std::map<std::uint64_t, std::uint64_t> taken_;  // offset -> bytes
  std::uint64_t used_ = 0;
  std::map<std::uint64_t, std::unique_ptr<Region>> regions_;  // by address in the client
  std::vector<Pending> pending_;
  std::uint64_t copies_to_ = 0;
  std::uint64_t tracked_bytes_ = 0;
  bool dependencies_ = false;
};

}  // namespace vgpu::stub_guest
