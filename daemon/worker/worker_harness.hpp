// For tests and benchmarks only: starts a vgpud-worker without a broker, and talks to it as a client would.
#pragma once

#include <sys/types.h>

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "protocol/arena.hpp"
#include "protocol/channel.hpp"
#include "protocol/gate.hpp"
#include "protocol/handshake.hpp"
#include "protocol/reply_slots.hpp"
#include "protocol/ring.hpp"
#include "protocol/unique_fd.hpp"
#include "vgpu/records.hpp"

namespace vgpu::worker {

/// A running worker and its channel. The worker is killed at the end.
class WorkerHarness {
 public:
  /// Starts `worker` with the driver library at `driver`; the error is a sentence. `movable`: its client's
  /// memory can be moved out; the test then says in gate() what a broker would. `further`: numbers of the
  /// devices that its client has besides the first.
  static tl::expected<std::unique_ptr<WorkerHarness>, std::string> start(
      const std::string& worker, const std::string& driver, std::uint64_t memory_quota = 0,
      bool movable = false, const std::vector<std::uint32_t>& further = {});
  ~WorkerHarness();
  WorkerHarness(const WorkerHarness&) = delete;
  WorkerHarness& operator=(const WorkerHarness&) = delete;

  const DeviceReport& report() const { return report_; }
  Channel& channel() { return *channel_; }
  GatePage& gate(std::size_t place = 0) { return gate_->page(place); }
  Arena& arena() { return *arena_; }
  int direct_socket() const { return direct_.get(); }
  pid_t pid() const { return pid_; }
  /// Ends the client's side: closes its sockets.
  void hang_up();
  /// Waits until the worker has ended, at most `timeout_ms`; its wait status, or -1.
  int wait_for_end(int timeout_ms);

  /// Sends a record without waiting.
  template <class Record>
  bool post(Record record, std::span<const std::byte> tail = {}, std::uint32_t reply = 0) {
    RingProducer producer(*channel_);
    record.header.size = static_cast<std::uint32_t>(sizeof record + tail.size());
    record.header.reply = reply;
    const auto slot = producer.reserve(record.header.size, [] { return true; });
    if (!slot) return false;
    std::memcpy(slot.bytes, &record, sizeof record);
    if (!tail.empty()) std::memcpy(slot.bytes + sizeof record, tail.data(), tail.size());
    producer.publish(slot);
    return true;
  }

  /// Sends a record and waits for its reply, at most ten seconds: CUDA_ERROR_UNKNOWN then. `slot` 0..255: one
  /// a thread.
  template <class Record>
  CUresult ask(const Record& record, typename Record::Reply& reply, std::span<const std::byte> tail = {},
               std::uint32_t slot = 0) {
    ReplySlot& place = channel_->slots()[slot];
    tickets_[slot] = tickets_[slot] % 0xFFFFFF + 1;
    const std::uint32_t ticket = tickets_[slot];
    post(record, tail, begin_reply(place, slot, ticket));
    const std::uint64_t until = now_ns() + 10'000'000'000;
    while (!await_reply(place, ticket, default_spin_ns(), 100'000'000)) {
      if (now_ns() > until) return CUDA_ERROR_UNKNOWN;
    }
    if (place.payload_size == sizeof reply) std::memcpy(&reply, place.payload, sizeof reply);
    return static_cast<CUresult>(place.result);
  }
  template <class Record>
  CUresult ask(const Record& record) {
    typename Record::Reply reply;
    return ask(record, reply);
  }

  /// Copies device memory into a block of the arena, which is the caller's, and waits: at most ten seconds.
  ArenaBlock* read_back(std::uint64_t from, std::uint64_t bytes, std::uint64_t stream = 0);

 private:
  WorkerHarness() = default;
  pid_t pid_ = -1;
  UniqueFd broker_, direct_, channel_fd_, gate_fd_;
  std::unique_ptr<GateMapping> gate_;
  std::unique_ptr<Channel> channel_;
  std::unique_ptr<Arena> arena_;
  DeviceReport report_;
  std::uint32_t tickets_[reply_slot_count] = {};
};

}  // namespace vgpu::worker
