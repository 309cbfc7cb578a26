// A channel: the sealed memfd through which one client process and one worker talk. Creates, checks and maps
// it; what goes through it is the business of ring.hpp, reply_slots.hpp, arena.hpp and upcall.hpp.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <tl/expected.hpp>

#include "protocol/channel_layout.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu {

/// Makes a channel's memfd of fixed, sealed size, zeroed, with its header filled in. The caller owns the
/// descriptor. `arena_bytes`: a multiple of 4096, at most max_arena_bytes. The error is a sentence.
tl::expected<UniqueFd, std::string> create_channel_memory(std::uint64_t arena_bytes = default_arena_bytes);

/// The mapping of a channel in this process. Unmapped at the end of its life; references into it die with it.
class Channel {
 public:
  /// Maps a channel received from elsewhere after checking that it is a memfd with size seals, of the right
  /// size, and made by the same protocol. Does not take `fd`; it may be closed afterwards. The error is a
  /// sentence.
  static tl::expected<std::unique_ptr<Channel>, std::string> attach(int fd);

  /// Maps a channel that lies at `offset` in a larger memory: a slot of VGPU-STUB (stub_layout.hpp), through
  /// the host's memfd or the guest's PCI resource. The caller has checked that [offset, offset +
  /// channel_offset::arena
  /// + arena_bytes) lies inside, that the memory cannot shrink, and who the other side is. `offset` and
  /// `arena_bytes` are multiples of 4096. Does not take `fd`. The error is a sentence.
  static tl::expected<std::unique_ptr<Channel>, std::string> attach_at(int fd, std::uint64_t offset,
                                                                       std::uint64_t arena_bytes);

  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  ChannelControl& control() const {
    return *reinterpret_cast<ChannelControl*>(base_ + channel_offset::control);
  }
  std::span<ReplySlot, reply_slot_count> slots() const {
    return std::span<ReplySlot, reply_slot_count>(reinterpret_cast<ReplySlot*>(base_ + channel_offset::slots),
                                                  reply_slot_count);
  }
  std::span<UpcallEntry, upcall_count> upcalls() const {
    return std::span<UpcallEntry, upcall_count>(
        reinterpret_cast<UpcallEntry*>(base_ + channel_offset::upcalls), upcall_count);
  }
  std::atomic<std::uint32_t>* publish_words() const {
    return reinterpret_cast<std::atomic<std::uint32_t>*>(base_ + channel_offset::publish);
  }
  /// The ring's bytes; ring_bytes long and mapped twice in a row.
  std::byte* ring_data() const { return base_ + channel_offset::data; }
  std::span<std::byte> arena() const { return {arena_, arena_bytes_}; }

  /// Puts pages behind the ring for this process, so that the first round through it takes no page faults.
  /// Does nothing where the kernel cannot (before Linux 5.14).
  void populate_ring() const;

 private:
  struct Regions;
  Channel();
  std::unique_ptr<Regions> regions_;
  std::byte* base_ = nullptr;
  std::byte* arena_ = nullptr;
  std::size_t arena_bytes_ = 0;
};

/// Marks the channel closed and wakes everyone who sleeps in it, on both sides. Idempotent, thread-safe.
void close_channel(const Channel& channel);

}  // namespace vgpu
