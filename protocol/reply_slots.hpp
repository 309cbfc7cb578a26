// Reply slots: where the answer to a waited call arrives. A client thread leases a slot, starts a ticket,
// posts its record with the reference, and waits; the worker completes the reference once.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "protocol/channel.hpp"
#include "protocol/record.hpp"

namespace vgpu {

/// The client's side: which slots are leased. Thread-safe. One for each channel.
class ReplySlotPool {
 public:
  /// A free slot's index, or nothing when all are leased (more threads wait than there are slots: try again).
  std::optional<std::uint32_t> lease();
  void give_back(std::uint32_t slot);

 private:
  std::atomic<std::uint64_t> leased_[reply_slot_count / 64] = {};
};

/// Starts a call on a leased slot: marks it pending under `ticket` (24 bits, not 0; the caller counts it up
/// for each call on this slot) and returns the value for RecordHeader::reply.
std::uint32_t begin_reply(ReplySlot& slot, std::uint32_t index, std::uint32_t ticket);

/// Waits until the slot's ticket is done: spins `spin_ns`, then sleeps at most `sleep_ns`. True when it is
/// done; then result, payload_size and payload are valid. On false look whether the peer still lives, then
/// call again. `control`: the channel's, for the hints about CPUs; nullptr: none.
bool await_reply(ReplySlot& slot, std::uint32_t ticket, std::uint64_t spin_ns, std::uint64_t sleep_ns,
                 ChannelControl* control = nullptr);

/// The worker's side: completes `reference` with `result` and `payload` (at most reply_payload_bytes; more is
/// cut off, which is an error of the worker). `flags`: ReplyFlags. Does nothing when reference is 0 or the
/// slot waits for another ticket.
void complete_reply(const Channel& channel, std::uint32_t reference, std::int32_t result,
                    std::span<const std::byte> payload = {}, std::uint32_t flags = 0);

/// The same handshake on an arena block: the client prepares, the worker completes, the client waits.
void begin_block(ArenaBlock& block);
bool await_block(ArenaBlock& block, std::uint64_t spin_ns, std::uint64_t sleep_ns,
                 ChannelControl* control = nullptr);
bool block_done(const ArenaBlock& block);
void complete_block(ArenaBlock& block, std::int32_t result);

}  // namespace vgpu
