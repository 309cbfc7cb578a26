// What lies where in the shared memory of VGPU-STUB (BAR2): docs/vgpu-stub.md in code. Both vgpuds are built
// from this; the guest's side writes GuestPage and SlotGuest, the host's HostPage and SlotHost, and nobody a
// word of the other's. Holds no code beyond arithmetic on offsets.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "protocol/channel_layout.hpp"
#include "protocol/handshake.hpp"

namespace vgpu::stub {

inline constexpr std::uint64_t magic = 0x4255'5453'5550'4756;  // "VGPUSTUB"
inline constexpr std::uint32_t version = 1;
inline constexpr std::uint64_t least_memory = 16ULL << 20;
inline constexpr std::uint64_t most_memory = 1ULL << 40;
inline constexpr std::uint32_t most_slots = 64;

/// Registers in BAR0. Source: QEMU, docs/specs/ivshmem-spec.rst.
inline constexpr std::size_t doorbell_register = 12;
inline constexpr std::uint32_t vector_kick = 0;     ///< a worker is to be woken
inline constexpr std::uint32_t vector_request = 1;  ///< a slot's request has changed
inline constexpr std::uint32_t vector_count = 2;

/// HostPage::state.
enum class HostState : std::uint32_t { none = 0, serving = 1, not_serving = 2 };

struct alignas(4096) HostPage {
  std::atomic<std::uint64_t> magic;  ///< written last
  std::atomic<std::uint32_t> version;
  std::atomic<std::uint32_t> slot_count;
  std::atomic<std::uint64_t> memory_bytes;
  std::atomic<std::uint64_t> slot_base;
  std::atomic<std::uint64_t> slot_stride;
  std::atomic<std::uint64_t> protocol_hash;
  std::atomic<std::uint64_t> generation;
  std::atomic<std::uint64_t> heartbeat;
  std::atomic<std::uint32_t> host_peer;
  std::atomic<std::uint32_t> vectors;
  std::atomic<std::uint32_t> state;  ///< HostState
  std::atomic<std::uint64_t> doorbells;
  char reason[240];
};

struct alignas(4096) GuestPage {
  std::atomic<std::uint64_t> generation;
  std::atomic<std::uint64_t> heartbeat;
  std::atomic<std::uint64_t> protocol_hash;
  std::atomic<std::uint32_t> version;
  char name[64];  ///< the guest's host name, for display
};

/// SlotGuest::request: odd asks for a session, even for none. One word, so that the host never reads half of
/// a request.
constexpr bool wants_open(std::uint32_t request) {
  return request % 2 != 0;
}
/// The request after `last` that asks for a session, or for none.
constexpr std::uint32_t next_request(std::uint32_t last, bool open) {
  return last + (wants_open(last) == open ? 2 : 1);
}
/// SlotHost::state.
enum class SlotState : std::uint32_t { free = 0, opening = 1, open = 2, refused = 3, ended = 4 };

struct alignas(4096) SlotGuest {
  std::atomic<std::uint32_t> request;  ///< wants_open(), next_request()
  std::atomic<std::uint32_t> kick;
  std::atomic<std::uint32_t> identity;  ///< bumped after the fields below changed
  std::int32_t pid;
  std::uint32_t uid;
  char program[64];
  std::atomic<std::uint32_t>
      contended;  ///< not 0: keep few commands in flight, others of the guest want the device
  alignas(64) std::atomic<std::uint64_t> console_read;  ///< bytes of console text taken so far
};

struct alignas(4096) SlotHost {
  std::atomic<std::uint32_t> state;
  std::atomic<std::uint32_t> answered;  ///< the request that `state` answers
  std::uint32_t code;                   ///< RefusalCode
  std::atomic<std::uint32_t> metered;   ///< as GatePage::metered
  std::uint64_t session;
  std::uint64_t memory_quota;
  char reason[240];
  alignas(64) std::atomic<std::uint64_t> consumed_ns;
  std::atomic<std::uint64_t> kernel_ns;
  std::atomic<std::uint64_t> memory_used;
  std::atomic<std::uint64_t> memory_peak;
  std::atomic<std::uint32_t> backlogged;  ///< 1 while the worker has work to submit or in flight
  std::atomic<std::uint32_t> in_flight;   ///< as GatePage::in_flight
  std::atomic<std::uint64_t> progress;    ///< as GatePage::progress
  std::atomic<std::uint64_t> beats;       ///< as GatePage::beats
  alignas(64) std::atomic<std::uint64_t> console_written;  ///< bytes of console text written so far
  alignas(64) DeviceReport device;
};

inline constexpr std::size_t console_bytes = 24576;

struct SlotControl {
  SlotGuest guest;
  SlotHost host;
  char console[console_bytes];
};
static_assert(sizeof(HostPage) == 4096 && sizeof(GuestPage) == 4096 && sizeof(SlotGuest) == 4096);
static_assert(sizeof(SlotHost) == 4096 && sizeof(SlotControl) == 32768);

inline constexpr std::size_t guest_page_offset = 4096;
inline constexpr std::size_t slot_control_offset = 65536;
inline constexpr std::uint64_t slot_alignment = 65536;

/// How a memory of some size is divided.
struct Division {
  std::uint64_t memory_bytes = 0;
  std::uint32_t slot_count = 0;
  std::uint64_t slot_base = 0;
  std::uint64_t slot_stride = 0;

  constexpr std::uint64_t control(std::uint32_t slot) const {
    return slot_control_offset + std::uint64_t{slot} * sizeof(SlotControl);
  }
  constexpr std::uint64_t memory(std::uint32_t slot) const { return slot_base + slot * slot_stride; }
  /// Bytes of a slot's arena; 0 if a slot holds none.
  constexpr std::uint64_t arena_bytes() const {
    const std::uint64_t bytes = slot_stride > channel_offset::arena ? slot_stride - channel_offset::arena : 0;
    return bytes < max_arena_bytes ? bytes / 4096 * 4096 : max_arena_bytes;
  }
  /// True if all parts lie inside the memory and a slot holds a channel with an arena of at least 1 MiB.
  /// To be asked of every division that the other side wrote.
  constexpr bool sound() const {
    if (slot_count == 0 || slot_count > most_slots || !std::has_single_bit(memory_bytes) ||
        memory_bytes < least_memory || memory_bytes > most_memory) {
      return false;
    }
    return slot_base >= control(slot_count) && slot_base % 4096 == 0 && slot_stride % 4096 == 0 &&
           slot_base < memory_bytes && slot_stride <= (memory_bytes - slot_base) / slot_count &&
           arena_bytes() >= (1U << 20);
  }
};

/// The division of `bytes` into `slots` equal slots; sound() says whether they fit.
constexpr Division divide(std::uint64_t bytes, std::uint32_t slots) {
  Division division;
  division.memory_bytes = bytes;
  division.slot_count = slots;
  if (slots == 0 || slots > most_slots) return division;
  division.slot_base = (division.control(slots) + slot_alignment - 1) / slot_alignment * slot_alignment;
  if (division.slot_base < bytes) {
    division.slot_stride = (bytes - division.slot_base) / slots / slot_alignment * slot_alignment;
  }
  return division;
}

}  // namespace vgpu::stub
