#include "daemon/stub/guest/host_memory.hpp"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "protocol/address_space.hpp"

namespace vgpu::stub_guest {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::size_t kCompared = 256;  // bytes that are compared at once
constexpr std::size_t kMostPending = 4096;
constexpr std::uint64_t kSearched = 1 << 20;  // of a region, for pointers to others

constexpr auto kNoCare = [](std::span<const std::byte>) {};

// Puts into `to` and `twin` what differs between `from` and `twin`; calls `changed` with each stretch that
// did.
template <class Changed>
void apply_changes(const std::byte* from, std::byte* twin, std::byte* to, std::uint64_t bytes,
                   Changed&& changed) {
  for (std::uint64_t at = 0; at < bytes; at += kCompared) {
    const std::size_t size = std::min<std::uint64_t>(kCompared, bytes - at);
    if (std::memcmp(from + at, twin + at, size) == 0) continue;
    for (std::size_t i = at; i < at + size; ++i) {
      const std::byte value = from[i];
      if (value == twin[i]) continue;
      to[i] = value;
      twin[i] = value;
    }
    changed(std::span<const std::byte>(twin + at, size));
  }
}

// Pages of `bytes` that only this process has; nullptr when there is no memory.
std::byte* private_pages(std::uint64_t bytes) {
  void* const place =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return place == MAP_FAILED ? nullptr : static_cast<std::byte*>(place);
}

}  // namespace

struct HostMemory::Region {
  std::uint64_t address = 0;
  std::uint64_t device = 0;
  std::uint64_t bytes = 0;
  std::uint64_t offset = 0;
  std::byte* client = nullptr;  // the process's pages
  std::byte* shared = nullptr;  // those in BAR2
  std::byte* twin = nullptr;    // what both agreed on; only of a tracked region

  Region() = default;
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() {
    if (client != nullptr) munmap(client, bytes);
    if (twin != nullptr) munmap(twin, bytes);
  }
};

HostMemory::HostMemory(std::span<std::byte> arena, std::uint64_t begin, CopyCrew& crew)
    : crew_(crew), arena_(arena), begin_((begin + kPage - 1) / kPage * kPage) {}
HostMemory::~HostMemory() = default;

std::optional<std::uint64_t> HostMemory::take(std::uint64_t bytes) {
  if (bytes == 0 || bytes > arena_.size()) return std::nullopt;
  const std::uint64_t size = (bytes + kPage - 1) / kPage * kPage;
  // First fit: regions are few and long-lived.
  std::uint64_t at = begin_;
  for (const auto& [offset, length] : taken_) {
    if (offset - at >= size) break;
    at = offset + length;
  }
  if (at > arena_.size() || arena_.size() - at < size) return std::nullopt;
  taken_.emplace(at, size);
  used_ += size;
  return at;
}

void HostMemory::give_back(std::uint64_t offset) {
  const auto found = taken_.find(offset);
  if (found == taken_.end()) return;
  used_ -= found->second;
  taken_.erase(found);
}

bool HostMemory::add(std::uint64_t address, std::uint64_t bytes, int fd, std::uint64_t offset, bool managed) {
  struct stat status {};
  if (!in_host_window(address, bytes) || regions_.count(address) != 0 || fstat(fd, &status) != 0 ||
      static_cast<std::uint64_t>(status.st_size) < bytes) {
    return false;
  }
  void* const place = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (place == MAP_FAILED) return false;
  auto region = std::make_unique<Region>();
  region->address = region->device = address;
  region->bytes = bytes;
  region->offset = offset;
  region->client = static_cast<std::byte*>(place);
  region->shared = arena_.data() + offset;
  // The room may have been another region's.
  std::memset(region->shared, 0, bytes);
  Region& added = *region;
  regions_.emplace(address, std::move(region));
  if (managed) track(added);
  return true;
}

void HostMemory::set_device_address(std::uint64_t address, std::uint64_t device) {
  const auto found = regions_.find(address);
  if (found != regions_.end()) found->second->device = device;
}

void HostMemory::remove(std::uint64_t address) {
  const auto found = regions_.find(address);
  if (found == regions_.end()) return;
  Region* const gone = found->second.get();
  std::erase_if(pending_, [gone](const Pending& entry) { return entry.region == gone; });
  if (gone->twin != nullptr) tracked_bytes_ -= gone->bytes;
  give_back(gone->offset);
  regions_.erase(found);
}

HostMemory::Region* HostMemory::find(std::uint64_t address, std::uint64_t bytes, std::uint64_t& at) {
  const auto inside = [&](const Region& region, std::uint64_t base) {
    at = address - base;
    return address >= base && at <= region.bytes && region.bytes - at >= bytes;
  };
  auto after = regions_.upper_bound(address);
  if (after != regions_.begin() && inside(*std::prev(after)->second, std::prev(after)->first)) {
    return std::prev(after)->second.get();
  }
  for (const auto& [base, region] : regions_) {
    if (region->device != base && inside(*region, region->device)) return region.get();
  }
  return nullptr;
}

void HostMemory::track(Region& region) {
  if (region.twin != nullptr) return;
  region.twin = private_pages(region.bytes);
  if (region.twin == nullptr) return;  // as good as can be without memory: copies are still exact
  // What the client has not been told of yet stays as the device wrote it; the rest is the client's.
  copy_in(region, 0, region.bytes);
  std::memcpy(region.twin, region.client, region.bytes);
  tracked_bytes_ += region.bytes;
  std::erase_if(pending_, [&](const Pending& entry) { return entry.region == &region; });
  // What a kernel reads may lead it on: structs in mapped memory hold pointers.
  note_addresses(std::span<const std::byte>(region.twin, std::min(region.bytes, kSearched)));
}

bool HostMemory::note_addresses(std::span<const std::byte> bytes) {
  bool any = false;
  // Fields are aligned to 4 bytes at least, packed parameters to their own size.
  for (std::size_t at = 0; at + sizeof(std::uint64_t) <= bytes.size(); at += 4) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    if (!in_host_window(word)) continue;
    std::uint64_t inside = 0;
    Region* const region = find(word, 1, inside);
    if (region == nullptr) continue;
    any = true;
    track(*region);
  }
  return any;
}

void HostMemory::track_all() {
  for (auto& [address, region] : regions_) track(*region);
}

// The client's bytes go to the shared pages, but for those that the device has written or is about to.
void HostMemory::copy_in(Region& region, std::uint64_t at, std::uint64_t bytes) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> device;
  for (const Pending& entry : pending_) {
    if (entry.region == &region) device.emplace_back(entry.at, entry.at + entry.bytes);
  }
  std::sort(device.begin(), device.end());
  const std::uint64_t end = at + bytes;
  for (const auto& [from, to] : device) {
    if (from >= end) break;
    if (from > at) crew_.copy(region.shared + at, region.client + at, from - at);
    at = std::max(at, std::min(to, end));
  }
  if (at < end) crew_.copy(region.shared + at, region.client + at, end - at);
}

void HostMemory::before_copy_from(std::uint64_t address, std::uint64_t bytes) {
  std::uint64_t at = 0;
  Region* const region = find(address, bytes, at);
  if (region == nullptr) return;
  if (region->twin != nullptr) {
    apply_changes(region->client + at, region->twin + at, region->shared + at, bytes, kNoCare);
  } else {
    copy_in(*region, at, bytes);
  }
}

HostMemory::Kind HostMemory::kind(std::uint64_t address, std::uint64_t bytes) {
  std::uint64_t at = 0;
  const Region* const region = find(address, bytes, at);
  if (region == nullptr) return Kind::other;
  return region->twin == nullptr ? Kind::only_copied : Kind::tracked;
}

std::uint64_t HostMemory::before_copy_to(std::uint64_t address, std::uint64_t bytes, std::uint64_t stream,
                                         std::uint16_t context, std::uint64_t order) {
  std::uint64_t at = 0;
  Region* const region = find(address, bytes, at);
  if (region == nullptr || region->twin != nullptr) return 0;
  for (Pending& entry : pending_) {
    if (entry.region == region && entry.at == at && entry.bytes == bytes && entry.stream == stream &&
        entry.context == context) {
      entry.order = order;
      return entry.number = ++copies_to_;
    }
  }
  if (pending_.size() >= kMostPending) {
    track(*region);
    return 0;
  }
  pending_.push_back({region, at, bytes, stream, order, ++copies_to_, context});
  return copies_to_;
}

void HostMemory::ended_copy_to(std::uint64_t number, bool refused) {
  const auto found = std::find_if(pending_.begin(), pending_.end(),
                                  [number](const Pending& entry) { return entry.number == number; });
  // Not there: it has been fetched, its region is tracked or gone, or a later copy goes to the same place.
  if (found == pending_.end()) return;
  if (!refused) fetch_pending(*found);
  pending_.erase(found);
}

void HostMemory::flush() {
  if (tracked_bytes_ == 0) return;
  for (auto& [address, region] : regions_) {
    if (region->twin == nullptr) continue;
    apply_changes(region->client, region->twin, region->shared, region->bytes,
                  [this](std::span<const std::byte> bytes) { note_addresses(bytes); });
  }
}

void HostMemory::fetch() {
  if (tracked_bytes_ == 0) return;
  for (auto& [address, region] : regions_) {
    if (region->twin == nullptr) continue;
    apply_changes(region->shared, region->twin, region->client, region->bytes, kNoCare);
  }
}

void HostMemory::fetch_pending(const Pending& pending) {
  crew_.copy(pending.region->client + pending.at, pending.region->shared + pending.at, pending.bytes);
}

// `known`: entries that have ended. `perhaps`: entries that may have, for all that the client may know.
template <class Known, class Perhaps>
void HostMemory::settle(Known&& known, Perhaps&& perhaps) {
  std::vector<Region*> unsure;
  std::erase_if(pending_, [&](const Pending& entry) {
    if (known(entry)) {
      fetch_pending(entry);
      return true;
    }
    if (perhaps(entry)) unsure.push_back(entry.region);
    return false;
  });
  // Tracked, each change comes over once, and nothing is written back over what the client writes later.
  for (Region* const region : unsure) track(*region);
  fetch();
}

void HostMemory::learned_stream(std::uint64_t stream, std::uint16_t context, std::uint64_t order) {
  // The default streams wait for others and others for them.
  constexpr std::uint64_t last_default = 2;
  settle(
      [&](const Pending& entry) {
        return entry.stream == stream && entry.context == context && entry.order < order;
      },
      [&](const Pending& entry) {
        return entry.order < order && (dependencies_ || entry.context != context || stream <= last_default ||
                                       entry.stream <= last_default);
      });
}

void HostMemory::learned_something() {
  settle([](const Pending&) { return false; }, [](const Pending&) { return true; });
}

void HostMemory::learned_all(std::uint16_t context, std::uint64_t order) {
  settle([&](const Pending& entry) { return entry.context == context && entry.order < order; },
         [&](const Pending& entry) { return entry.order < order; });
}

}  // namespace vgpu::stub_guest
