// The client's connection: the socket to the broker, the channel and the direct socket to the worker, and the
// two ways a call goes through them: posted (nobody waits) and asked (the calling thread waits for its reply
// slot). Never hangs on a peer that is gone. Never: knows what a record means.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "libclient/cuda/thread_state.hpp"
#include "protocol/arena.hpp"
#include "protocol/channel.hpp"
#include "protocol/console_code.hpp"
#include "protocol/futex.hpp"
#include "protocol/handshake.hpp"
#include "protocol/record.hpp"
#include "protocol/reply_slots.hpp"
#include "protocol/ring.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::client {

/// What came back for an asked call. The payload stays valid until this thread's next ask().
struct Reply {
  CUresult result = CUDA_ERROR_UNKNOWN;
  std::span<const std::byte> payload;
};

/// One connection; all functions are thread-safe.
class Connection {
 public:
  /// Why there is no connection: the CUDA error for cuInit and a sentence for the log.
  struct Failure {
    CUresult result = CUDA_ERROR_SYSTEM_NOT_READY;
    std::string text;
  };

  /// Connects to the broker at `path`, with a wish for devices, and waits for its answer, at most
  /// `timeout_ms`. A missing broker fails at once.
  static tl::expected<std::unique_ptr<Connection>, Failure> open(const std::string& path, int timeout_ms,
                                                                 const DeviceWish& wish);

  /// The process's devices, one at least.
  const std::vector<DeviceReport>& devices() const { return devices_; }
  const Welcome& welcome() const { return welcome_; }
  const Channel& channel() const { return *channel_; }
  Arena& arena() { return *arena_; }
  int direct_socket() const { return direct_.get(); }

  /// The error that every call returns from now on: sticky, or the worker is gone. CUDA_SUCCESS while all is
  /// well.
  CUresult error() const {
    const ChannelControl& control = channel_->control();
    if ((control.closed.load(std::memory_order_relaxed) |
         control.sticky_error.load(std::memory_order_relaxed)) == 0) {
      return CUDA_SUCCESS;
    }
    return final_error();
  }

  /// True while there is such a failure that no call has reported yet.
  bool has_async_error() const {
    return channel_->control().async_error.load(std::memory_order_acquire) != 0;
  }
  /// True once there are kernels that may print: only a synchronisation that the worker answers brings that.
  bool kernels_print() const { return channel_->control().prints.load(std::memory_order_acquire) != 0; }
  /// The first unreported failure of a call that nobody waited for; it counts as reported then.
  CUresult take_async_error() {
    std::atomic<std::uint32_t>& word = channel_->control().async_error;
    if (word.load(std::memory_order_acquire) == 0) return error();
    return static_cast<CUresult>(word.exchange(0, std::memory_order_acq_rel));
  }

  /// Space in the ring for a record of `bytes`; false if the worker is gone. What is reserved must be
  /// published.
  RingProducer::Slot reserve(std::size_t bytes) {
    return ring_.reserve(bytes, [this] { return alive(); });
  }
  /// `waits`: somebody will wait for the reply.
  void publish(const RingProducer::Slot& slot, bool waits) { ring_.publish(slot, waits); }

  /// Posts a record (its header at the start, size filled in here) and a tail behind it. `reserved` is called
  /// with its position when it has its place among the process's calls, before the worker can see it.
  template <class Reserved>
  CUresult post(std::span<std::byte> record, std::span<const std::byte> tail, Reserved&& reserved) {
    const std::size_t size = record.size() + tail.size();
    const auto bytes32 = static_cast<std::uint32_t>(size);
    std::memcpy(record.data() + offsetof(RecordHeader, size), &bytes32, sizeof bytes32);
    const RingProducer::Slot slot = reserve(size);
    if (!slot) return final_error();
    reserved(slot.position);
    std::memcpy(slot.bytes, record.data(), record.size());
    if (!tail.empty()) std::memcpy(slot.bytes + record.size(), tail.data(), tail.size());
    RecordHeader header;
    std::memcpy(&header, record.data(), sizeof header);
    publish(slot, header.reply != 0);
    return CUDA_SUCCESS;
  }
  /// Posts the same and waits for its reply.
  template <class Reserved>
  Reply ask(ThreadState& thread, std::span<std::byte> record, std::span<const std::byte> tail,
            Reserved&& reserved) {
    const std::uint32_t reference = begin(thread);
    if (reference == 0) return {final_error(), {}};
    std::memcpy(record.data() + offsetof(RecordHeader, reply), &reference, sizeof reference);
    if (const CUresult posted = post(record, tail, reserved); posted != CUDA_SUCCESS) return {posted, {}};
    return wait(thread);
  }

  /// Leases a reply slot for the thread and starts a call: the value for RecordHeader::reply, 0 if the worker
  /// is gone.
  std::uint32_t begin(ThreadState& thread);
  /// Waits for the reply to begin()'s call.
  Reply wait(ThreadState& thread);
  /// Waits until the worker has completed an arena block; CUDA_SUCCESS, the copy's error or the connection's.
  CUresult wait(ArenaBlock& block);

  /// A block of the arena with room for `bytes` (<= largest_block()), waiting for the worker to complete
  /// others if there is none; nullptr if the worker is gone.
  ArenaBlock* allocate(std::uint64_t bytes);
  std::uint64_t largest_block() const { return largest_block_; }

  /// False once the worker is gone; then every waiter is woken.
  bool alive();
  /// The thread ends: its slot goes back.
  void release(ThreadState& thread);
  /// In the child of a fork: closes the descriptors that would keep the session alive, and touches nothing
  /// else.
  void abandon_in_child();

 private:
  Connection(UniqueFd socket, UniqueFd direct, const Welcome& welcome, std::vector<DeviceReport> devices,
             std::unique_ptr<Channel> channel);
  CUresult final_error() const;
  /// Waits until the reply of the thread's call is there; false: the worker has gone without one.
  bool await_reply_of(ThreadState& thread);
  void print_console();
  /// Asks for what has been printed and had no room, until there is no more; the thread's reply stays as it
  /// is.
  void fetch_console(ThreadState& thread);
  /// For how long the thread's wait may spin, as its context's flags say.
  std::uint64_t spin_time(const ThreadState& thread) const;

  UniqueFd socket_;
  UniqueFd direct_;
  Welcome welcome_;
  std::vector<DeviceReport> devices_;
  std::unique_ptr<Channel> channel_;
  RingProducer ring_;
  std::mutex console_mutex_;
  ConsoleCode console_code_;  // guarded by console_mutex_
  ReplySlotPool slots_;
  std::unique_ptr<Arena> arena_;
  std::uint64_t largest_block_ = 0;
  SpinTime spin_;  ///< of waits for replies
};

}  // namespace vgpu::client
