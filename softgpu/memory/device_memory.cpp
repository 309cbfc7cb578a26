#include "softgpu/memory/device_memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>

#include "softgpu/memory/address_space.hpp"

namespace softgpu {
namespace {

constexpr std::uint64_t page = 4096;
constexpr std::size_t guarded_blocks =
    8192;  // a guard splits mappings, and a process may have some 65,000 of them

std::uint64_t rounded(std::uint64_t bytes, std::uint64_t to) {
  return (bytes + to - 1) & ~(to - 1);
}

void* at(std::uint64_t address) {
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(address));  // NOLINT(performance-no-int-to-ptr)
}

// Replaces whatever is mapped there by inaccessible, uncommitted addresses.
void punch_hole(std::uint64_t address, std::uint64_t bytes) {
  (void)mmap(at(address), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

// True when every page of the range is mapped in this process.
bool range_is_mapped(std::uint64_t address, std::uint64_t bytes) {
  const std::uint64_t first = address & ~(page - 1);
  const std::uint64_t last = rounded(address + bytes, page);
  std::vector<unsigned char> present(std::min<std::uint64_t>((last - first) / page, 65536));
  for (std::uint64_t position = first; position < last;) {
    const std::uint64_t count = std::min<std::uint64_t>(last - position, present.size() * page);
    if (mincore(at(position), count, present.data()) != 0) return false;
    position += count;
  }
  return true;
}

}  // namespace

DeviceMemory::DeviceMemory(std::uint64_t total)
    : total_(total), addresses_(device_window_base, device_window_size), used_(std::make_shared<Counts>()) {}

DeviceMemory::~DeviceMemory() {
  if (opened_) munmap(at(device_window_base), device_window_size);
}

bool DeviceMemory::open_window() {
  if (opened_) return true;
  if (open_failed_) return false;
  void* const wish = at(device_window_base);
  void* const window = mmap(wish, device_window_size, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (window != wish) {
    if (window != MAP_FAILED) munmap(window, device_window_size);
    open_failed_ = true;
    return false;
  }
  // A core dump or a child has no use for a terabyte of holes; pages in use are still inherited by fork().
  madvise(window, device_window_size, MADV_DONTDUMP);
  opened_ = true;
  return true;
}

std::uint64_t DeviceMemory::used(int device) const {
  return (*used_)[static_cast<std::size_t>(device)].load(std::memory_order_relaxed);
}

std::uint64_t DeviceMemory::free_bytes(int device) const {
  const std::uint64_t now = used(device);
  return now < total_ ? total_ - now : 0;
}

tl::expected<std::uint64_t, MemoryError> DeviceMemory::allocate(std::uint64_t bytes, MemoryKind kind,
                                                                const void* owner,
                                                                const AllocationOptions& options) {
  if (bytes == 0) return tl::unexpected(MemoryError::invalid);
  if (bytes > device_window_size / 2) return tl::unexpected(MemoryError::out_of_memory);
  const std::uint64_t pages = rounded(bytes, page);
  const std::uint64_t charge = kind == MemoryKind::host ? 0 : pages;
  const std::unique_lock lock(mutex_);
  if (!open_window()) return tl::unexpected(MemoryError::out_of_memory);
  if (charge > free_bytes(options.device)) return tl::unexpected(MemoryError::out_of_memory);
  const bool large = pages >= mapping_granularity;
  const std::uint64_t span = pages + (blocks_.size() < guarded_blocks ? page : 0);
  const auto address = addresses_.take(span, large ? mapping_granularity : page);
  if (!address) return tl::unexpected(MemoryError::out_of_memory);
  PoolFile* const file = options.file;
  std::shared_ptr<const PoolFile::Piece> piece = file != nullptr ? file->take(pages) : nullptr;
  const bool there =
      file == nullptr
          ? mprotect(at(*address), pages, PROT_READ | PROT_WRITE) == 0
          : piece != nullptr && mmap(at(*address), pages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                                     piece->fd(), static_cast<off_t>(piece->offset())) != MAP_FAILED;
  if (!there) {
    addresses_.give_back(*address, span);
    return tl::unexpected(MemoryError::out_of_memory);
  }
  if (large && file == nullptr) madvise(at(*address), pages, MADV_HUGEPAGE);
  Block block;
  block.piece = std::move(piece);
  block.base = *address;
  block.bytes = bytes;
  block.kind = kind;
  block.flags = options.flags;
  block.id = next_id_++;
  block.owner = owner;
  block.pool = options.pool;
  block.device = options.device;
  block.span = span;
  block.charge = charge;
  blocks_.emplace(*address, std::move(block));
  (*used_)[static_cast<std::size_t>(options.device)].fetch_add(charge, std::memory_order_relaxed);
  return *address;
}

void DeviceMemory::drop(Blocks::iterator found) {
  Block& block = found->second;
  if (block.kind == MemoryKind::registered) {
    remove_host_range(block.base);
  } else {
    punch_hole(block.base, rounded(block.bytes, page));
    if (block.kind != MemoryKind::mapped) addresses_.give_back(block.base, block.span);
  }
  (*used_)[static_cast<std::size_t>(block.device)].fetch_sub(block.charge, std::memory_order_relaxed);
  blocks_.erase(found);
}

tl::expected<void, MemoryError> DeviceMemory::release(std::uint64_t base,
                                                      std::initializer_list<MemoryKind> kinds) {
  const std::unique_lock lock(mutex_);
  const auto found = blocks_.find(base);
  if (found == blocks_.end() || std::find(kinds.begin(), kinds.end(), found->second.kind) == kinds.end()) {
    return tl::unexpected(MemoryError::not_found);
  }
  drop(found);
  return {};
}

namespace {

// Copies what is not zero: untouched pages stay without memory on both sides.
void copy_touched(std::byte* to, const std::byte* from, std::uint64_t bytes) {
  static const std::array<std::byte, page> zero{};
  for (std::uint64_t offset = 0; offset < bytes; offset += page) {
    if (std::memcmp(from + offset, zero.data(), page) != 0) std::memcpy(to + offset, from + offset, page);
  }
}

}  // namespace

tl::expected<std::shared_ptr<PhysicalMemory>, MemoryError> DeviceMemory::share(std::uint64_t base) {
  const std::unique_lock lock(mutex_);
  const auto found = blocks_.find(base);
  if (found == blocks_.end() || found->second.kind != MemoryKind::device)
    return tl::unexpected(MemoryError::not_found);
  Block& block = found->second;
  if (block.mapped.memory != nullptr) return block.mapped.memory;
  const std::uint64_t bytes = rounded(block.bytes, page);
  auto memory = PhysicalMemory::create(bytes, block.device);
  if (!memory) return tl::unexpected(MemoryError::out_of_memory);
  void* const copy = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, (*memory)->fd(), 0);
  if (copy == MAP_FAILED) return tl::unexpected(MemoryError::out_of_memory);
  copy_touched(static_cast<std::byte*>(copy), static_cast<const std::byte*>(at(base)), bytes);
  // Moves the mapping itself over the block: no moment without memory there, and no second way to fail.
  if (mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at(base)) == MAP_FAILED) {
    munmap(copy, bytes);
    return tl::unexpected(MemoryError::out_of_memory);
  }
  block.mapped.memory = *memory;
  return *memory;
}

tl::expected<std::uint64_t, MemoryError> DeviceMemory::attach(std::shared_ptr<PhysicalMemory> memory,
                                                              std::uint64_t bytes, const void* owner) {
  Block block;
  block.bytes = bytes;
  block.kind = MemoryKind::imported;
  block.owner = owner;
  block.mapped.memory = std::move(memory);
  return attach(std::move(block), 0);
}

tl::expected<std::uint64_t, MemoryError> DeviceMemory::attach_piece(std::shared_ptr<PhysicalMemory> memory,
                                                                    std::uint64_t offset, std::uint64_t bytes,
                                                                    const void* owner, const void* pool) {
  Block block;
  block.bytes = bytes;
  block.kind = MemoryKind::pool;
  block.owner = owner;
  block.pool = pool;
  block.mapped.memory = std::move(memory);
  return attach(std::move(block), offset);
}

std::shared_ptr<void> DeviceMemory::note(std::uint64_t base, std::shared_ptr<void> (*make)()) {
  const std::unique_lock lock(mutex_);
  const auto found = blocks_.find(base);
  if (found == blocks_.end()) return nullptr;
  if (found->second.note == nullptr) found->second.note = make();
  return found->second.note;
}

std::optional<std::uint64_t> DeviceMemory::offset_in_file(std::uint64_t base) const {
  const std::shared_lock lock(mutex_);
  const auto found = blocks_.find(base);
  if (found == blocks_.end() || found->second.piece == nullptr) return std::nullopt;
  return found->second.piece->offset();
}

tl::expected<std::uint64_t, MemoryError> DeviceMemory::attach(Block block, std::uint64_t offset) {
  const PhysicalMemory& memory = *block.mapped.memory;
  if (block.bytes == 0 || offset % page != 0 || offset > memory.bytes() ||
      block.bytes > memory.bytes() - offset) {
    return tl::unexpected(MemoryError::invalid);
  }
  const std::uint64_t pages = rounded(block.bytes, page);
  const std::unique_lock lock(mutex_);
  if (!open_window()) return tl::unexpected(MemoryError::out_of_memory);
  const std::uint64_t span = pages + (blocks_.size() < guarded_blocks ? page : 0);
  const auto address = addresses_.take(span, pages >= mapping_granularity ? mapping_granularity : page);
  if (!address) return tl::unexpected(MemoryError::out_of_memory);
  if (mmap(at(*address), pages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory.fd(),
           static_cast<off_t>(offset)) == MAP_FAILED) {
    addresses_.give_back(*address, span);
    return tl::unexpected(MemoryError::out_of_memory);
  }
  block.base = *address;
  block.id = next_id_++;
  block.device = memory.device();
  block.span = span;
  blocks_.emplace(*address, std::move(block));
  return *address;
}

void DeviceMemory::release_owner(const void* owner) {
  const std::unique_lock lock(mutex_);
  for (auto block = blocks_.begin(); block != blocks_.end();) {
    const auto next = std::next(block);
    if (block->second.owner == owner) drop(block);
    block = next;
  }
}

tl::expected<void, MemoryError> DeviceMemory::register_host(std::uint64_t address, std::uint64_t bytes,
                                                            const void* owner, std::uint32_t flags,
                                                            int device) {
  if (address == 0 || bytes == 0 || address + bytes < address) return tl::unexpected(MemoryError::invalid);
  const std::unique_lock lock(mutex_);
  auto next = blocks_.lower_bound(address);
  if (next != blocks_.end() && next->first < address + bytes) return tl::unexpected(MemoryError::exists);
  if (next != blocks_.begin()) {
    const Block& before = std::prev(next)->second;
    if (before.base + before.bytes > address) return tl::unexpected(MemoryError::exists);
  }
  if (!range_is_mapped(address, bytes)) return tl::unexpected(MemoryError::invalid);
  Block block;
  block.base = address;
  block.bytes = bytes;
  block.kind = MemoryKind::registered;
  block.flags = flags;
  block.device = device;
  block.id = next_id_++;
  block.owner = owner;
  blocks_.emplace(address, std::move(block));
  add_host_range(address, bytes);
  return {};
}

tl::expected<void, MemoryError> DeviceMemory::unregister_host(std::uint64_t address) {
  return release(address, {MemoryKind::registered});
}

const DeviceMemory::Block* DeviceMemory::block_at(std::uint64_t address) const {
  auto next = blocks_.upper_bound(address);
  if (next == blocks_.begin()) return nullptr;
  const Block& block = std::prev(next)->second;
  return address - block.base < block.bytes ? &block : nullptr;
}

std::optional<Allocation> DeviceMemory::find(std::uint64_t address) const {
  const std::shared_lock lock(mutex_);
  const Block* const block = block_at(address);
  if (block == nullptr) return std::nullopt;
  return *block;
}

bool DeviceMemory::accessible(std::uint64_t address, std::uint64_t bytes) const {
  if (address + bytes < address) return false;
  const std::shared_lock lock(mutex_);
  for (;;) {
    const Block* const block = block_at(address);
    if (block == nullptr || !block->accessible) return false;
    const std::uint64_t rest = block->bytes - (address - block->base);
    if (bytes <= rest) return true;
    if (block->kind != MemoryKind::mapped) return false;
    address += rest;
    bytes -= rest;
  }
}

tl::expected<std::shared_ptr<PhysicalMemory>, MemoryError> DeviceMemory::create_physical(std::uint64_t bytes,
                                                                                         int device) {
  const std::unique_lock lock(mutex_);
  if (bytes > free_bytes(device)) return tl::unexpected(MemoryError::out_of_memory);
  auto memory = PhysicalMemory::create(bytes, device);
  if (!memory) return tl::unexpected(MemoryError::out_of_memory);
  std::shared_ptr<std::atomic<std::uint64_t>> used(used_, &(*used_)[static_cast<std::size_t>(device)]);
  used->fetch_add(bytes, std::memory_order_relaxed);
  PhysicalMemory* const raw = memory->get();
  return std::shared_ptr<PhysicalMemory>(
      raw, [kept = std::move(*memory), used = std::move(used), bytes](PhysicalMemory*) {
        used->fetch_sub(bytes, std::memory_order_relaxed);
      });
}

tl::expected<std::uint64_t, MemoryError> DeviceMemory::reserve(std::uint64_t bytes, std::uint64_t align,
                                                               std::uint64_t wish) {
  const std::uint64_t alignment = std::max(align, mapping_granularity);
  if (bytes == 0 || bytes % mapping_granularity != 0 || (alignment & (alignment - 1)) != 0) {
    return tl::unexpected(MemoryError::invalid);
  }
  const std::unique_lock lock(mutex_);
  if (!open_window()) return tl::unexpected(MemoryError::out_of_memory);
  std::uint64_t address = wish;
  if (wish == 0 || wish % alignment != 0 || !addresses_.take_at(wish, bytes)) {
    const auto taken = addresses_.take(bytes, alignment);
    if (!taken) return tl::unexpected(MemoryError::out_of_memory);
    address = *taken;
  }
  reservations_.emplace(address, bytes);
  return address;
}

tl::expected<void, MemoryError> DeviceMemory::unreserve(std::uint64_t address, std::uint64_t bytes) {
  const std::unique_lock lock(mutex_);
  const auto found = reservations_.find(address);
  if (found == reservations_.end() || found->second != bytes) return tl::unexpected(MemoryError::invalid);
  const auto inside = blocks_.lower_bound(address);
  if (inside != blocks_.end() && inside->first < address + bytes) return tl::unexpected(MemoryError::invalid);
  reservations_.erase(found);
  addresses_.give_back(address, bytes);
  return {};
}

tl::expected<void, MemoryError> DeviceMemory::map(std::uint64_t address, std::uint64_t bytes,
                                                  std::uint64_t offset,
                                                  std::shared_ptr<PhysicalMemory> memory, const void* owner) {
  constexpr std::uint64_t mask = mapping_granularity - 1;
  if (bytes == 0 || ((address | bytes | offset) & mask) != 0 || offset > memory->bytes() ||
      memory->bytes() - offset < bytes) {
    return tl::unexpected(MemoryError::invalid);
  }
  const std::unique_lock lock(mutex_);
  auto reserved = reservations_.upper_bound(address);
  if (reserved == reservations_.begin()) return tl::unexpected(MemoryError::invalid);
  --reserved;
  const std::uint64_t inside = address - reserved->first;
  if (inside > reserved->second || reserved->second - inside < bytes)
    return tl::unexpected(MemoryError::invalid);
  const auto next = blocks_.lower_bound(address);
  if ((next != blocks_.end() && next->first < address + bytes) || block_at(address) != nullptr) {
    return tl::unexpected(MemoryError::exists);
  }
  if (mmap(at(address), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, memory->fd(), static_cast<off_t>(offset)) ==
      MAP_FAILED) {
    return tl::unexpected(MemoryError::out_of_memory);
  }
  Block block;
  block.base = address;
  block.bytes = bytes;
  block.kind = MemoryKind::mapped;
  block.id = next_id_++;
  block.owner = owner;
  block.accessible = false;
  block.device = memory->device();
  block.mapped = {std::move(memory), {}};
  blocks_.emplace(address, std::move(block));
  return {};
}

std::pair<DeviceMemory::Blocks::iterator, DeviceMemory::Blocks::iterator> DeviceMemory::mappings(
    std::uint64_t address, std::uint64_t bytes) {
  const auto none = std::pair(blocks_.end(), blocks_.end());
  const auto first = blocks_.find(address);
  std::uint64_t expected = address;
  auto last = first;
  for (; last != blocks_.end() && expected < address + bytes; ++last) {
    if (last->first != expected || last->second.kind != MemoryKind::mapped) return none;
    expected += last->second.bytes;
  }
  return expected == address + bytes && bytes != 0 ? std::pair(first, last) : none;
}

tl::expected<void, MemoryError> DeviceMemory::unmap(std::uint64_t address, std::uint64_t bytes) {
  const std::unique_lock lock(mutex_);
  auto [first, last] = mappings(address, bytes);
  if (first == blocks_.end()) return tl::unexpected(MemoryError::invalid);
  while (first != last) drop(first++);
  return {};
}

tl::expected<void, MemoryError> DeviceMemory::set_access(std::uint64_t address, std::uint64_t bytes,
                                                         Access access, int device) {
  const std::unique_lock lock(mutex_);
  auto [first, last] = mappings(address, bytes);
  if (first == blocks_.end()) return tl::unexpected(MemoryError::invalid);
  for (; first != last; ++first) {
    Block& block = first->second;
    auto all = block.mapped.access;
    all[static_cast<std::size_t>(device)] = access;
    const Access most = *std::max_element(all.begin(), all.end());
    int protection = PROT_NONE;
    if (most == Access::read) protection = PROT_READ;
    if (most == Access::read_write) protection = PROT_READ | PROT_WRITE;
    if (mprotect(at(block.base), block.bytes, protection) != 0)
      return tl::unexpected(MemoryError::out_of_memory);
    block.mapped.access = all;
    block.accessible = most != Access::none;
  }
  return {};
}

std::optional<DeviceMemory::Mapping> DeviceMemory::mapping(std::uint64_t address) const {
  const std::shared_lock lock(mutex_);
  const Block* const block = block_at(address);
  if (block == nullptr || block->kind != MemoryKind::mapped) return std::nullopt;
  return block->mapped;
}

std::optional<std::pair<std::uint64_t, std::uint64_t>> DeviceMemory::reservation(
    std::uint64_t address) const {
  const std::shared_lock lock(mutex_);
  auto next = reservations_.upper_bound(address);
  if (next == reservations_.begin()) return std::nullopt;
  --next;
  if (address - next->first >= next->second) return std::nullopt;
  return *next;
}

namespace {

std::optional<std::uint64_t> parse_size(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || value == 0) return std::nullopt;
  const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  unsigned shift = 0;
  if (unit == "K") shift = 10;
  if (unit == "M") shift = 20;
  if (unit == "G") shift = 30;
  if (shift == 0 && !unit.empty()) return std::nullopt;
  if (value > (device_window_size >> shift)) return std::nullopt;
  return value << shift;
}

}  // namespace

std::uint64_t configured_device_memory(int devices) {
  constexpr std::uint64_t least = std::uint64_t{16} << 20;
  const auto count = static_cast<std::uint64_t>(devices);
  const std::uint64_t room = device_window_size / 2 / count;
  if (const char* const set = std::getenv("SOFTGPU_MEMORY"); set != nullptr) {
    if (const auto bytes = parse_size(set)) return std::clamp(*bytes & ~(page - 1), least, room);
  }
  auto machine =
      static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  std::ifstream limit("/sys/fs/cgroup/memory.max");
  std::uint64_t allowed = 0;
  if (limit >> allowed && allowed != 0) machine = std::min(machine, allowed);
  constexpr std::uint64_t most = std::uint64_t{64} << 30;
  return std::clamp((machine / 2 / count) & ~(DeviceMemory::mapping_granularity - 1), least,
                    std::min(most, room));
}

}  // namespace softgpu
