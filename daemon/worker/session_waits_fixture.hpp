// For tests of a session's dispatcher: a device whose work ends when the test says so, and which counts what
// it is asked, with a session over it.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "daemon/worker/session_fixture.hpp"
#include "protocol/handle.hpp"
#include "protocol/reply_slots.hpp"
#include "protocol/ring.hpp"

namespace vgpu::worker {

/// A device on which all work of all streams is under way until finish().
struct BusyDevice {
  std::mutex mutex;
  std::condition_variable moved;
  bool busy = false;
  int streams = 0;
  std::atomic<int> launches{0};
  std::atomic<int> events_recorded{0};
  std::atomic<int> synchronisations{0};
  std::atomic<int> blocking_copies{0};
  std::atomic<int> copies_in{0};
  std::atomic<int> frees{0};
  std::atomic<int> launches_before_free{0};

  static BusyDevice& get() {
    static BusyDevice device;
    return device;
  }
  void reset() {
    const std::lock_guard lock(mutex);
    busy = false;
    launches = events_recorded = synchronisations = blocking_copies = copies_in = 0;
    frees = launches_before_free = 0;
  }
  void finish() {
    const std::lock_guard lock(mutex);
    busy = false;
    moved.notify_all();
  }
  CUresult state() {
    const std::lock_guard lock(mutex);
    return busy ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
  }
};

/// A driver of the one busy device. It has no memory: copies copy nothing.
DriverTable waiting_table();

/// A session over the busy device, and a client that sends it records. The dispatcher is a thread of the
/// test, as are those of the driver's waits; there is never another process, nor a broker unless a fixture
/// has one.
struct SessionWaits : testing::Test, OwnSession {
  void SetUp() override {
    BusyDevice::get().reset();
    start_session(table, worker_end.get());
    producer = std::make_unique<RingProducer>(*channel);
    dispatcher = std::thread([this] { ended = session->run(); });
  }
  void TearDown() override {
    BusyDevice::get().finish();
    session->stop();
    dispatcher.join();
    session.reset();
  }

  /// Whether this comes true, within ten seconds.
  template <class Condition>
  static bool soon(Condition&& condition) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    return true;
  }
  /// Sends a record that nobody waits for, unless `reply` says where.
  template <class Record>
  void post(Record record, std::span<const std::byte> tail = {}, std::uint32_t reply = 0) {
    record.header.size = static_cast<std::uint32_t>(sizeof record + tail.size());
    record.header.reply = reply;
    const auto slot = producer->reserve(record.header.size, [] { return true; });
    ASSERT_NE(slot.bytes, nullptr);
    std::memcpy(slot.bytes, &record, sizeof record);
    if (!tail.empty()) std::memcpy(slot.bytes + sizeof record, tail.data(), tail.size());
    producer->publish(slot);
  }
  /// Sends a call that is waited for, without waiting.
  template <class Record>
  void begin(const Record& record, std::uint32_t slot, std::span<const std::byte> tail = {}) {
    post(record, tail, begin_reply(channel->slots()[slot], slot, ++tickets[slot]));
  }
  /// Whether what was begun there has its answer, which may take so long.
  bool answered(std::uint32_t slot, std::uint64_t wait_ns = 0) {
    return await_reply(channel->slots()[slot], tickets[slot], 0, wait_ns);
  }
  /// The answer to what was begun there, waited for.
  CUresult result(std::uint32_t slot) {
    if (!soon([&] { return answered(slot, 1'000'000); })) return CUDA_ERROR_UNKNOWN;
    return static_cast<CUresult>(channel->slots()[slot].result);
  }
  template <class Record>
  CUresult ask(const Record& record, std::span<const std::byte> tail = {}) {
    begin(record, 9, tail);
    return result(9);
  }
  /// Loads a module and looks up its kernel k, which launch() runs.
  void load(const std::string& ptx) {
    ArenaBlock* const block = arena->allocate(ptx.size());
    std::memcpy(Arena::data(block), ptx.data(), ptx.size());
    record::cuModuleLoadData module;
    module.module = Handle::make(HandleKind::module, 0, 1);
    module.image = {arena->offset(block), ptx.size()};
    ASSERT_EQ(ask(module), CUDA_SUCCESS);
    record::cuModuleGetFunction function;
    function.hmod = module.module;
    function.hfunc = Handle::make(HandleKind::function, 0, 1);
    ASSERT_EQ(ask(function, std::as_bytes(std::span("k", 1))), CUDA_SUCCESS);
  }
  /// The record of a launch of that kernel, in the legacy stream.
  static record::cuLaunchKernel kernel() {
    record::cuLaunchKernel one;
    one.function = Handle::make(HandleKind::function, 0, 1);
    one.grid_x = one.grid_y = one.grid_z = one.block_x = one.block_y = one.block_z = 1;
    return one;
  }
  /// Launches the kernel, and waits until the driver has it.
  void launch() {
    const int before = BusyDevice::get().launches;
    post(kernel());
    ASSERT_TRUE(soon([&] { return BusyDevice::get().launches > before; }));
  }

  static inline const std::string silent_kernel =
      ".version 8.0\n.target sm_75\n.address_size 64\n.visible .entry k() { ret; }\n";

  DriverTable table = waiting_table();  // which a fixture may change before SetUp()
  UniqueFd worker_end;                  // of the socket to the broker, where there is one
  std::atomic<SessionEnd> ended{SessionEnd::stopped};
  std::unique_ptr<RingProducer> producer;
  std::thread dispatcher;
  std::uint32_t tickets[reply_slot_count] = {};
};

}  // namespace vgpu::worker
