#include "cudaabi/managed_advice.hpp"

#include <sched.h>
#include <unistd.h>

#include <cstring>
#include <iterator>
#include <string>

namespace cudaabi {
namespace {

constexpr std::uint64_t page = 4096;

bool is_node(int id) {
  return id == 0 ||
         (id > 0 && access(("/sys/devices/system/node/node" + std::to_string(id)).c_str(), F_OK) == 0);
}

CUresult put(void* data, std::size_t data_bytes, std::int32_t value) {
  if (data_bytes != sizeof value) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(data, &value, sizeof value);
  return CUDA_SUCCESS;
}

enum What { device, type, id };  // of a place: as one number, or in two

}  // namespace

CUresult ManagedAdvice::place_of(const CUmemLocation& location, Place& place) const {
  place = {location.type, location.id};
  switch (location.type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
      return location.id >= 0 && location.id < devices_ ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
    case CU_MEM_LOCATION_TYPE_HOST:
      place.id = 0;
      return CUDA_SUCCESS;
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
      return is_node(location.id) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT: {
      unsigned node = 0;
      if (getcpu(nullptr, &node) != 0) return CUDA_ERROR_OPERATING_SYSTEM;
      place = {CU_MEM_LOCATION_TYPE_HOST_NUMA, static_cast<int>(node)};
      return CUDA_SUCCESS;
    }
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

ManagedAdvice::Pages::iterator ManagedAdvice::split(std::uint64_t at) {
  const auto after = pages_.lower_bound(at);
  if (after != pages_.end() && after->first == at) return after;
  return pages_.emplace_hint(after, at, std::prev(after)->second);
}

template <class Change>
void ManagedAdvice::change(std::uint64_t offset, std::uint64_t bytes, Change make) {
  const std::uint64_t first = offset & ~(page - 1);
  const std::uint64_t last = (offset + bytes + page - 1) & ~(page - 1);
  const std::lock_guard lock(mutex_);
  const auto begin = split(first);
  const auto end = split(last);
  for (auto pages = begin; pages != end; ++pages) make(pages->second);
  // Neighbours of which the same was said are one.
  auto pages = begin == pages_.begin() ? begin : std::prev(begin);
  while (pages->first <= last) {
    const auto next = std::next(pages);
    if (next == pages_.end()) break;
    if (next->second == pages->second) {
      pages_.erase(next);
    } else {
      pages = next;
    }
  }
}

CUresult ManagedAdvice::advise(std::uint64_t offset, std::uint64_t bytes, CUmem_advise advice,
                               CUmemLocation location) {
  switch (advice) {
    case CU_MEM_ADVISE_SET_READ_MOSTLY:
    case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
      change(offset, bytes,
             [on = advice == CU_MEM_ADVISE_SET_READ_MOSTLY](Said& said) { said.read_mostly = on; });
      return CUDA_SUCCESS;
    case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
      change(offset, bytes, [](Said& said) { said.preferred = {}; });
      return CUDA_SUCCESS;
    default:
      break;
  }
  Place place;
  if (const CUresult result = place_of(location, place); result != CUDA_SUCCESS) return result;
  switch (advice) {
    case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
      change(offset, bytes, [&](Said& said) { said.preferred = place; });
      return CUDA_SUCCESS;
    case CU_MEM_ADVISE_SET_ACCESSED_BY:
    case CU_MEM_ADVISE_UNSET_ACCESSED_BY: {
      if (place.type == CU_MEM_LOCATION_TYPE_HOST_NUMA) return CUDA_ERROR_INVALID_VALUE;
      const bool set = advice == CU_MEM_ADVISE_SET_ACCESSED_BY;
      change(offset, bytes, [&](Said& said) {
        if (place.type != CU_MEM_LOCATION_TYPE_DEVICE) {
          said.by_host = set;
          return;
        }
        const std::uint32_t bit = std::uint32_t{1} << place.id;
        said.by_devices = set ? said.by_devices | bit : said.by_devices & ~bit;
      });
      return CUDA_SUCCESS;
    }
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult ManagedAdvice::prefetch(std::uint64_t offset, std::uint64_t bytes, CUmemLocation location) {
  Place place;
  if (const CUresult result = place_of(location, place); result != CUDA_SUCCESS) return result;
  change(offset, bytes, [&](Said& said) { said.prefetched = place; });
  return CUDA_SUCCESS;
}

CUresult ManagedAdvice::put_place(void* data, std::size_t data_bytes, const Place& place, int what) {
  if (what == What::type) return put(data, data_bytes, place.type);
  if (what == What::id) return put(data, data_bytes, place.id);
  const bool host = place.type == CU_MEM_LOCATION_TYPE_HOST || place.type == CU_MEM_LOCATION_TYPE_HOST_NUMA;
  return put(data, data_bytes, host ? CU_DEVICE_CPU : place.id);
}

CUresult ManagedAdvice::query(void* data, std::size_t data_bytes, CUmem_range_attribute attribute,
                              std::uint64_t offset, std::uint64_t bytes) const {
  // What holds for all pages.
  Said all;
  {
    const std::lock_guard lock(mutex_);
    auto pages = std::prev(pages_.upper_bound(offset));
    all = pages->second;
    for (++pages; pages != pages_.end() && pages->first < offset + bytes; ++pages) {
      const Said& said = pages->second;
      all.read_mostly = all.read_mostly && said.read_mostly;
      all.by_devices &= said.by_devices;
      all.by_host = all.by_host && said.by_host;
      if (!(all.preferred == said.preferred)) all.preferred = {};
      if (!(all.prefetched == said.prefetched)) all.prefetched = {};
    }
  }
  switch (attribute) {
    case CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY:
      return put(data, data_bytes, all.read_mostly ? 1 : 0);
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION:
      return put_place(data, data_bytes, all.preferred, What::device);
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE:
      return put_place(data, data_bytes, all.preferred, What::type);
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID:
      return put_place(data, data_bytes, all.preferred, What::id);
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION:
      return put_place(data, data_bytes, all.prefetched, What::device);
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE:
      return put_place(data, data_bytes, all.prefetched, What::type);
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID:
      return put_place(data, data_bytes, all.prefetched, What::id);
    case CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY: {
      if (data_bytes == 0 || data_bytes % sizeof(std::int32_t) != 0) return CUDA_ERROR_INVALID_VALUE;
      std::size_t at = 0;
      const auto add = [&](std::int32_t who) {
        if (at < data_bytes) std::memcpy(static_cast<std::byte*>(data) + at, &who, sizeof who);
        at += sizeof who;
      };
      for (int id = 0; id < devices_; ++id) {
        if ((all.by_devices >> id & 1) != 0) add(id);
      }
      if (all.by_host) add(CU_DEVICE_CPU);
      while (at < data_bytes) add(CU_DEVICE_INVALID);
      return CUDA_SUCCESS;
    }
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // namespace cudaabi
