// What a program has said of managed memory: advice and prefetches, for each range of pages. A libcuda of
// ours moves nothing: its managed memory lies where all reach it. But it remembers what it was told, which is
// all that cuMemRangeGetAttribute answers.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace cudaabi {

/// Of one allocation; offsets count from its start, and the caller has checked that they lie inside.
/// Thread-safe.
class ManagedAdvice {
 public:
  /// The devices are the numbers below `devices`, which is 32 at most.
  explicit ManagedAdvice(int devices = 1) : devices_(devices) {}

  /// cuMemAdvise.
  CUresult advise(std::uint64_t offset, std::uint64_t bytes, CUmem_advise advice, CUmemLocation location);
  /// cuMemPrefetchAsync.
  CUresult prefetch(std::uint64_t offset, std::uint64_t bytes, CUmemLocation location);
  /// cuMemRangeGetAttribute.
  CUresult query(void* data, std::size_t data_bytes, CUmem_range_attribute attribute, std::uint64_t offset,
                 std::uint64_t bytes) const;

 private:
  struct Place {
    CUmemLocationType type = CU_MEM_LOCATION_TYPE_INVALID;
    int id = CU_DEVICE_INVALID;
    bool operator==(const Place&) const = default;
  };
  struct Said {
    bool read_mostly = false;
    std::uint32_t by_devices = 0;  // accessed by device n: bit n
    bool by_host = false;          // accessed by the CPU
    Place preferred;
    Place prefetched;
    bool operator==(const Said&) const = default;
  };
  /// Pages from the key on, up to the next key.
  using Pages = std::map<std::uint64_t, Said>;

  CUresult place_of(const CUmemLocation& location, Place& place) const;
  static CUresult put_place(void* data, std::size_t data_bytes, const Place& place, int what);
  Pages::iterator split(std::uint64_t at);
  template <class Change>
  void change(std::uint64_t offset, std::uint64_t bytes, Change make);

  const int devices_;
  mutable std::mutex mutex_;
  Pages pages_{{0, {}}};
};

}  // namespace cudaabi
