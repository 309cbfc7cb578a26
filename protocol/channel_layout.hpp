// What lies where in a channel's shared memory. Both sides are built from this; the protocol hash covers it.
//
//   page 0      ChannelHeader: constants for inspection, nothing that either side relies on after the
//   handshake page 1      ChannelControl: ring counters, sleep words, error words slots       256 reply slots
//   of 256 bytes upcalls     64 upcall entries of 64 bytes (host functions) publish     one sequence word a
//   ring unit data        the ring's bytes; mapped twice in a row, so a record never wraps arena       bulk
//   data; allocated by the client
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "protocol/record.hpp"

namespace vgpu {

inline constexpr std::uint64_t channel_magic = 0x314C4E4843445056;  // "VPDCHNL1"
inline constexpr std::size_t ring_units = 32768;
inline constexpr std::size_t ring_bytes = ring_units * ring_unit;  // 2 MiB
inline constexpr std::size_t reply_slot_count = 256;
inline constexpr std::size_t reply_payload_bytes = 240;
inline constexpr std::size_t upcall_count = 64;
inline constexpr std::uint64_t default_arena_bytes = 32u << 20;
inline constexpr std::uint64_t max_arena_bytes = std::uint64_t{1} << 30;

struct ChannelHeader {
  std::uint64_t magic;
  std::uint64_t protocol_hash;
  std::uint64_t arena_bytes;
};

/// ChannelControl::consumer_sleeps.
inline constexpr std::uint32_t consumer_awake = 0;
/// To be woken for any record.
inline constexpr std::uint32_t consumer_asleep = 1;
/// May not go on with what it has: to be woken for records with a reply only.
inline constexpr std::uint32_t consumer_at_gate = 2;

/// Each word on a cache line of its own, by who writes it.
struct ChannelControl {
  alignas(64) std::atomic<std::uint64_t> reserved_units;   ///< producers: units handed out so far
  alignas(64) std::atomic<std::uint64_t> consumed_units;   ///< consumer: units that may be used again,
                                                           ///< at least
  alignas(64) std::atomic<std::uint32_t> consumer_sleeps;  ///< one of the values above (futex word)
  std::atomic<std::uint32_t> consumer_fences;  ///< 1: the consumer fences for the producers before it sleeps
  alignas(64) std::atomic<std::uint32_t> space_waiters;  ///< producers that sleep for space
  std::atomic<std::uint32_t> space_event;                ///< futex word: bumped when space came for sleepers
  alignas(64) std::atomic<std::uint32_t> closed;         ///< 1: no call will be answered any more
  std::atomic<std::uint32_t> sticky_error;  ///< CUresult that every call returns from now on, or 0
  std::atomic<std::uint32_t> async_error;   ///< CUresult of the first unreported asynchronous failure
  std::atomic<std::uint32_t> prints;        ///< 1: kernels were loaded that may print; what they print comes
                                            ///< with the reply to a synchronisation
  alignas(64) std::atomic<std::uint32_t> upcall_event;  ///< futex word: bumped when an upcall was posted
  std::atomic<std::uint32_t> upcall_sleeps;             ///< 1 while the client's upcall thread sleeps
  alignas(64) std::atomic<std::uint64_t> doorbells;     ///< how often a producer woke the consumer
  // Hints, where there are few CPUs: 1 + the CPU on which the consumer ran last, and on which a producer
  // waits now (0: none). Who shares its CPU with the one it waits for must not spin.
  alignas(64) std::atomic<std::uint32_t> consumer_cpu;
  std::atomic<std::uint32_t> waiter_cpu;
};

/// States of a word that one side waits for. Low two bits of a reply slot's or arena block's state word.
enum class Phase : std::uint32_t { idle = 0, pending = 1, sleeping = 2, done = 3 };

/// Bits of ReplySlot::flags.
struct ReplyFlags {
  /// The device has printed: ConsoleText messages wait in the client's direct socket, to be written out
  /// before this call returns.
  static constexpr std::uint32_t console = 1;
  /// Not all that was printed had room there: the record console_rest, and each answer to it, bring more.
  static constexpr std::uint32_t more_console = 2;
};

struct alignas(64) ReplySlot {
  std::atomic<std::uint32_t> state;  ///< ticket << 2 | Phase
  std::int32_t result;               ///< CUresult
  std::uint32_t payload_size;
  std::uint32_t flags;  ///< ReplyFlags
  std::byte payload[reply_payload_bytes];
};
static_assert(sizeof(ReplySlot) == 256);

/// Stands before the data of every arena block that a copy record names (the record names the block's
/// header).
struct alignas(64) ArenaBlock {
  std::atomic<std::uint32_t> state;  ///< Phase; the client sets pending, the worker done
  std::int32_t result;               ///< CUresult of the copy, valid when done
};
static_assert(sizeof(ArenaBlock) == 64);

enum class UpcallState : std::uint32_t { free = 0, posted = 1, done = 2 };

struct alignas(64) UpcallEntry {
  std::atomic<std::uint32_t> state;  ///< UpcallState; futex word for the worker
  std::int32_t status;               ///< CUresult that a stream callback gets
  std::uint32_t kind;                ///< 0: CUhostFn(user), 1: CUstreamCallback(stream, status, user)
  std::uint32_t reserved;
  std::uint64_t function;  ///< address in the client; the worker never uses it
  std::uint64_t user;
  std::uint64_t stream;  ///< the client's handle
};
static_assert(sizeof(UpcallEntry) == 64);

namespace channel_offset {
inline constexpr std::size_t header = 0;
inline constexpr std::size_t control = 4096;
inline constexpr std::size_t slots = 8192;
inline constexpr std::size_t upcalls = slots + reply_slot_count * sizeof(ReplySlot);
inline constexpr std::size_t publish = upcalls + upcall_count * sizeof(UpcallEntry);
inline constexpr std::size_t data = publish + ring_units * sizeof(std::uint32_t);
inline constexpr std::size_t arena = data + ring_bytes;
static_assert(upcalls % 4096 == 0 && publish % 4096 == 0 && data % 4096 == 0 && arena % 4096 == 0);
static_assert(sizeof(ChannelControl) <= 4096);
}  // namespace channel_offset

static_assert(std::atomic<std::uint64_t>::is_always_lock_free &&
              std::atomic<std::uint32_t>::is_always_lock_free);

}  // namespace vgpu
