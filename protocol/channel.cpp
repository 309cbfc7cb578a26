#include "protocol/channel.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <cstring>
#include <exception>
#include <optional>

#include "protocol/errno_text.hpp"
#include "protocol/futex.hpp"
#include "protocol/handshake.hpp"
#include "protocol/received_fd.hpp"

namespace vgpu {
namespace {

constexpr int size_seals = F_SEAL_SHRINK | F_SEAL_GROW;

}  // namespace

struct Channel::Regions {
  boost::interprocess::mapped_region first, again, arena;
};

Channel::Channel() : regions_(std::make_unique<Regions>()) {}
Channel::~Channel() = default;

tl::expected<UniqueFd, std::string> create_channel_memory(std::uint64_t arena_bytes) {
  if (arena_bytes == 0 || arena_bytes % 4096 != 0 || arena_bytes > max_arena_bytes) {
    return tl::unexpected(std::string("the arena's size must be a multiple of 4096 and at most 1 GiB"));
  }
  UniqueFd fd(memfd_create("vgpud-channel", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return tl::unexpected(errno_text("memfd_create"));
  if (ftruncate(fd.get(), static_cast<off_t>(channel_offset::arena + arena_bytes)) != 0) {
    return tl::unexpected(errno_text("ftruncate of the channel"));
  }
  const ChannelHeader header{channel_magic, protocol_hash(), arena_bytes};
  if (pwrite(fd.get(), &header, sizeof header, 0) != static_cast<ssize_t>(sizeof header)) {
    return tl::unexpected(errno_text("writing the channel's header"));
  }
  if (fcntl(fd.get(), F_ADD_SEALS, size_seals | F_SEAL_SEAL) != 0)
    return tl::unexpected(errno_text("sealing the channel"));
  return fd;
}

tl::expected<std::unique_ptr<Channel>, std::string> Channel::attach(int fd) {
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & size_seals) != size_seals) {
    return tl::unexpected(std::string("the channel's memory is not sealed against resizing"));
  }
  struct stat status {};
  if (fstat(fd, &status) != 0) return tl::unexpected(errno_text("fstat of the channel"));
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size <= channel_offset::arena || size > channel_offset::arena + max_arena_bytes || size % 4096 != 0) {
    return tl::unexpected(std::string("the channel's memory has a wrong size"));
  }
  ChannelHeader header{};
  if (pread(fd, &header, sizeof header, 0) != static_cast<ssize_t>(sizeof header)) {
    return tl::unexpected(errno_text("reading the channel's header"));
  }
  if (header.magic != channel_magic)
    return tl::unexpected(std::string("the channel's memory is not a vgpud channel"));
  if (header.protocol_hash != protocol_hash()) {
    return tl::unexpected(std::string("the channel was made by another version of vgpud"));
  }
  return attach_at(fd, 0, size - channel_offset::arena);
}

tl::expected<std::unique_ptr<Channel>, std::string> Channel::attach_at(int fd, std::uint64_t offset,
                                                                       std::uint64_t arena_bytes) {
  namespace ipc = boost::interprocess;
  const auto at = [offset](std::size_t part) { return static_cast<ipc::offset_t>(offset + part); };
  // Everything up to the arena, and behind it the ring's data once more.
  constexpr std::size_t span = channel_offset::arena + ring_bytes;
  void* const place = mmap(nullptr, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return tl::unexpected(errno_text("reserving addresses for the channel"));
  auto* const base = static_cast<std::byte*>(place);
  std::unique_ptr<Channel> channel(new Channel);
  try {
    const ReceivedFd memory(fd);
    constexpr ipc::map_options_t fixed = MAP_FIXED;
    channel->regions_->first =
        ipc::mapped_region(memory, ipc::read_write, at(0), channel_offset::arena, base, fixed);
    channel->regions_->again = ipc::mapped_region(memory, ipc::read_write, at(channel_offset::data),
                                                  ring_bytes, base + channel_offset::arena, fixed);
    channel->arena_bytes_ = arena_bytes;
    channel->regions_->arena =
        ipc::mapped_region(memory, ipc::read_write, at(channel_offset::arena), channel->arena_bytes_);
  } catch (const std::exception& error) {
    // Mapped parts belong to their regions; the rest of the reservation is still ours.
    if (channel->regions_->first.get_address() == nullptr) {
      munmap(base, span);
    } else if (channel->regions_->again.get_address() == nullptr) {
      munmap(base + channel_offset::arena, ring_bytes);
    }
    return tl::unexpected(std::string("mapping the channel: ") + error.what());
  }
  channel->base_ = base;
  channel->arena_ = static_cast<std::byte*>(channel->regions_->arena.get_address());
  return channel;
}

void Channel::populate_ring() const {
  constexpr std::size_t bytes = channel_offset::data + ring_bytes - channel_offset::publish;
  madvise(base_ + channel_offset::publish, bytes, MADV_POPULATE_WRITE);
}

void close_channel(const Channel& channel) {
  ChannelControl& control = channel.control();
  control.closed.store(1, std::memory_order_seq_cst);
  control.consumer_sleeps.store(0, std::memory_order_seq_cst);
  futex_wake(control.consumer_sleeps, INT32_MAX);
  control.space_event.fetch_add(1, std::memory_order_seq_cst);
  futex_wake(control.space_event, INT32_MAX);
  control.upcall_event.fetch_add(1, std::memory_order_seq_cst);
  futex_wake(control.upcall_event, INT32_MAX);
  // Sleepers in a slot wake, find it unanswered, and see that the channel is closed.
  for (ReplySlot& slot : channel.slots()) futex_wake(slot.state, INT32_MAX);
  for (UpcallEntry& entry : channel.upcalls()) futex_wake(entry.state, INT32_MAX);
}

}  // namespace vgpu
