// How the session's dispatcher waits: over a driver whose streams end when the test says so, and which counts
// what it is asked. No process and no device: the dispatcher is a thread of the test.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "daemon/worker/session_fixture.hpp"
#include "protocol/futex.hpp"
#include "protocol/handle.hpp"
#include "protocol/message_socket.hpp"
#include "protocol/reply_slots.hpp"

namespace vgpu::worker {
namespace {

/// A device on which all work of all streams is under way until finish().
struct Device {
  std::mutex mutex;
  std::condition_variable moved;
  bool busy = false;
  int streams = 0;
  std::atomic<int> launches{0};
  std::atomic<int> queries{0};
  std::atomic<int> events_recorded{0};
  std::atomic<int> synchronisations{0};
  std::atomic<int> blocking_copies{0};
  std::atomic<int> copies_in{0};
  std::atomic<int> frees{0};
  std::atomic<int> launches_before_free{0};

  static Device& get() {
    static Device device;
    return device;
  }
  void reset() {
    const std::lock_guard lock(mutex);
    busy = false;
    launches = queries = events_recorded = synchronisations = blocking_copies = copies_in = 0;
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

DriverTable waiting_table() {
  DriverTable table;
  table.cuCtxSetCurrent = [](CUcontext) { return CUDA_SUCCESS; };
  table.cuModuleLoadData = [](CUmodule* module, const void*) {
    *module = reinterpret_cast<CUmodule>(0x30);
    return CUDA_SUCCESS;
  };
  table.cuModuleGetFunction = [](CUfunction* function, CUmodule, const char*) {
    *function = reinterpret_cast<CUfunction>(0x40);
    return CUDA_SUCCESS;
  };
  table.cuLaunchKernel = [](CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                            CUstream, void**, void**) {
    Device& device = Device::get();
    const std::lock_guard lock(device.mutex);
    device.busy = true;
    ++device.launches;
    return CUDA_SUCCESS;
  };
  table.cuStreamQuery = [](CUstream) {
    ++Device::get().queries;
    return Device::get().state();
  };
  table.cuStreamSynchronize = [](CUstream) {
    ++Device::get().synchronisations;
    return CUDA_SUCCESS;
  };
  table.cuEventCreate = [](CUevent* event, unsigned) {
    *event = reinterpret_cast<CUevent>(0x50);
    return CUDA_SUCCESS;
  };
  table.cuEventRecord = [](CUevent, CUstream) {
    ++Device::get().events_recorded;
    return CUDA_SUCCESS;
  };
  table.cuEventQuery = [](CUevent) { return Device::get().state(); };
  table.cuEventSynchronize = [](CUevent) {
    Device& device = Device::get();
    std::unique_lock lock(device.mutex);
    device.moved.wait(lock, [&] { return !device.busy; });
    return CUDA_SUCCESS;
  };
  table.cuPointerGetAttribute = [](void* data, CUpointer_attribute, CUdeviceptr) {
    *static_cast<unsigned*>(data) = CU_MEMORYTYPE_DEVICE;
    return CUDA_SUCCESS;
  };
  table.cuMemAlloc_v2 = [](CUdeviceptr* pointer, size_t) {
    *pointer = 0x100000;
    return CUDA_SUCCESS;
  };
  table.cuMemFree_v2 = [](CUdeviceptr) {
    Device& device = Device::get();
    EXPECT_EQ(device.state(), CUDA_SUCCESS);  // a driver would wait here, and let nobody in
    device.launches_before_free = device.launches.load();
    ++device.frees;
    return CUDA_SUCCESS;
  };
  table.cuStreamCreateWithPriority = [](CUstream* stream, unsigned, int) {
    *stream = reinterpret_cast<CUstream>(0x60 + 0x10 * Device::get().streams++);
    return CUDA_SUCCESS;
  };
  table.cuStreamDestroy_v2 = [](CUstream) { return CUDA_SUCCESS; };
  table.cuMemcpyHtoDAsync_v2 = [](CUdeviceptr, const void*, size_t, CUstream) {
    Device& device = Device::get();
    const std::lock_guard lock(device.mutex);
    device.busy = true;
    ++device.copies_in;
    return CUDA_SUCCESS;
  };
  table.cuMemcpyDtoHAsync_v2 = [](void*, CUdeviceptr, size_t, CUstream) { return CUDA_SUCCESS; };
  table.cuMemcpyDtoH_v2 = [](void*, CUdeviceptr, size_t) {
    ++Device::get().blocking_copies;
    return CUDA_SUCCESS;
  };
  return table;
}

template <class Condition>
bool soon(Condition&& condition) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

struct SessionWaits : testing::Test, OwnSession {
  void SetUp() override {
    Device::get().reset();
    start_session(table, worker_end.get());
    producer = std::make_unique<RingProducer>(*channel);
    dispatcher = std::thread([this] { ended = session->run(); });
  }
  void TearDown() override {
    Device::get().finish();
    session->stop();
    dispatcher.join();
    session.reset();
  }

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
  bool answered(std::uint32_t slot, std::uint64_t wait_ns = 0) {
    return await_reply(channel->slots()[slot], tickets[slot], 0, wait_ns);
  }
  CUresult result(std::uint32_t slot) {
    if (!soon([&] { return answered(slot, 1'000'000); })) return CUDA_ERROR_UNKNOWN;
    return static_cast<CUresult>(channel->slots()[slot].result);
  }
  template <class Record>
  CUresult ask(const Record& record, std::span<const std::byte> tail = {}) {
    begin(record, 9, tail);
    return result(9);
  }
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
  void launch() {
    record::cuLaunchKernel launch;
    launch.function = Handle::make(HandleKind::function, 0, 1);
    launch.grid_x = launch.grid_y = launch.grid_z = launch.block_x = launch.block_y = launch.block_z = 1;
    const int before = Device::get().launches;
    post(launch);
    ASSERT_TRUE(soon([&] { return Device::get().launches > before; }));
  }

  DriverTable table = waiting_table();
  UniqueFd worker_end;  // of the socket to the broker, where there is one
  std::atomic<SessionEnd> ended{SessionEnd::stopped};
  std::unique_ptr<RingProducer> producer;
  std::thread dispatcher;
  std::uint32_t tickets[reply_slot_count] = {};
};

const std::string silent_kernel =
    ".version 8.0\n.target sm_75\n.address_size 64\n.visible .entry k() { ret; }\n";

TEST_F(SessionWaits, AFinishedStreamIsAnsweredByOneQuestion) {
  load(silent_kernel);
  launch();
  Device::get().finish();
  EXPECT_EQ(ask(record::cuStreamSynchronize{}), CUDA_SUCCESS);
  EXPECT_EQ(Device::get().events_recorded, 0);
  EXPECT_EQ(Device::get().synchronisations, 0);
}

TEST_F(SessionWaits, AnotherRecordIsRunWhileOneWaits) {
  load(silent_kernel);
  launch();
  begin(record::cuStreamSynchronize{}, 0);
  EXPECT_FALSE(answered(0, 2'000'000));
  launch();  // has the wait for the first launch turned into one by an event
  EXPECT_GT(Device::get().events_recorded, 0);
  EXPECT_FALSE(answered(0));
  Device::get().finish();
  EXPECT_EQ(result(0), CUDA_SUCCESS);
}

TEST_F(SessionWaits, ALongWaitOutlastsTheSpin) {
  load(silent_kernel);
  launch();
  begin(record::cuCtxSynchronize{}, 0);
  EXPECT_FALSE(answered(0, 60'000'000));
  Device::get().finish();
  EXPECT_EQ(result(0), CUDA_SUCCESS);
}

TEST_F(SessionWaits, WorkThatNobodyWaitsForIsSeenToEndWithoutAnEvent) {
  load(silent_kernel);
  launch();
  EXPECT_TRUE(soon([&] { return gate->page().backlogged.load() == 1; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(gate->page().backlogged.load(), 1U);
  Device::get().finish();
  EXPECT_TRUE(soon([&] { return gate->page().backlogged.load() == 0; }));
  EXPECT_EQ(Device::get().events_recorded, 0);
}

TEST_F(SessionWaits, WhereOthersWantTheDeviceTheEndIsWaitedFor) {
  load(silent_kernel);
  gate->page().allowance_ns.store(1'000'000'000'000);
  launch();
  EXPECT_TRUE(soon([&] { return Device::get().events_recorded > 0; }));
  Device::get().finish();
  EXPECT_TRUE(soon([&] { return gate->page().backlogged.load() == 0; }));
}

TEST_F(SessionWaits, OnlyKernelsThatMayPrintCostASynchronisation) {
  load(silent_kernel + ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);\n");
  launch();
  Device::get().finish();
  EXPECT_EQ(ask(record::cuStreamSynchronize{}), CUDA_SUCCESS);
  EXPECT_EQ(Device::get().synchronisations, 1);
}

TEST_F(SessionWaits, AQuestionAboutAnEarlierEventNeedNotWaitAtTheGate) {
  load(silent_kernel);
  record::cuEventCreate made;
  made.event = Handle::make(HandleKind::event, 0, 1);
  post(made);
  record::cuEventRecord recorded;
  recorded.hEvent = made.event;
  post(recorded);
  ASSERT_TRUE(soon([&] { return Device::get().events_recorded > 0; }));
  gate->page().allowance_ns.store(0);
  record::cuLaunchKernel held;
  held.function = Handle::make(HandleKind::function, 0, 1);
  held.grid_x = held.grid_y = held.grid_z = held.block_x = held.block_y = held.block_z = 1;
  post(held);
  ASSERT_TRUE(soon([&] { return gate->page().blocked.load() == 1; }));
  record::cuEventSynchronize question;
  question.hEvent = made.event;
  EXPECT_EQ(ask(question), CUDA_SUCCESS);  // which a dispatcher asleep at its gate is woken for
  post(recorded);
  begin(question, 0);
  EXPECT_FALSE(answered(0, 30'000'000));  // it asks for work that has to wait
  EXPECT_EQ(Device::get().launches, 0);
  gate->page().allowance_ns.store(no_limit_ns);
  gate->page().refill.fetch_add(1);
  EXPECT_TRUE(soon([&] { return Device::get().launches == 1; }));
  Device::get().finish();
  EXPECT_EQ(result(0), CUDA_SUCCESS);
  EXPECT_EQ(ask(question), CUDA_SUCCESS);
}

// The device is not said to have finished within the 200 us for which the stream is asked, nor long after.
TEST_F(SessionWaits, WhatFollowsAnAwaitedStreamWaitsButForItsOwnCopies) {
  load(silent_kernel);
  const auto copy_in = [this](std::uint64_t stream) {
    record::copy_to_device_inline copy;
    copy.dst = 0x100000;
    copy.stream = stream;
    post(copy, std::as_bytes(std::span("bytes", 5)));
  };
  const std::uint64_t streams[] = {Handle::make(HandleKind::stream, 0, 1),
                                   Handle::make(HandleKind::stream, 1, 1)};
  for (const std::uint64_t stream : streams) {
    record::cuStreamCreate made;
    made.stream = stream;
    post(made);
  }
  for (const bool other_copy : {false, true}) {
    Device::get().reset();
    record::await_stream awaited;
    awaited.stream = streams[0];
    copy_in(streams[0]);
    post(awaited);
    copy_in(streams[0]);
    post(awaited);
    ASSERT_TRUE(soon([] { return Device::get().copies_in == 2; }));
    record::cuLaunchKernel later;
    later.function = Handle::make(HandleKind::function, 0, 1);
    later.grid_x = later.grid_y = later.grid_z = later.block_x = later.block_y = later.block_z = 1;
    if (other_copy) copy_in(streams[1]);
    post(later);
    begin(record::cuCtxSynchronize{}, 0);
    EXPECT_FALSE(answered(0, 50'000'000));
    EXPECT_EQ(Device::get().launches, 0);
    EXPECT_EQ(Device::get().copies_in, 2);
    Device::get().finish();
    EXPECT_TRUE(soon([] { return Device::get().launches == 1; }));
    EXPECT_EQ(Device::get().copies_in, other_copy ? 3 : 2);
    Device::get().finish();
    EXPECT_EQ(result(0), CUDA_SUCCESS);
  }
}

TEST_F(SessionWaits, WorkOfADestroyedStreamBelongsToItsContext) {
  load(silent_kernel);
  record::cuStreamCreate made;
  made.stream = Handle::make(HandleKind::stream, 0, 1);
  post(made);
  record::cuLaunchKernel last;
  last.function = Handle::make(HandleKind::function, 0, 1);
  last.stream = made.stream;
  last.grid_x = last.grid_y = last.grid_z = last.block_x = last.block_y = last.block_z = 1;
  post(last);
  record::cuStreamDestroy_v2 gone;
  gone.stream = made.stream;
  post(gone);
  begin(record::cuCtxSynchronize{}, 0);
  EXPECT_FALSE(answered(0, 50'000'000));
  EXPECT_EQ(Device::get().launches, 1);
  Device::get().finish();
  EXPECT_EQ(result(0), CUDA_SUCCESS);
  EXPECT_EQ(ask(record::cuCtxSynchronize{}), CUDA_SUCCESS);
}

TEST_F(SessionWaits, AnAwaitedStreamThatIsUnknownIsAnErrorAndHoldsNothingBack) {
  load(silent_kernel);
  record::await_stream awaited;
  awaited.stream = Handle::make(HandleKind::stream, 7, 1);
  post(awaited);
  launch();
  Device::get().finish();
  EXPECT_EQ(ask(record::cuCtxSynchronize{}), CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(SessionWaits, OnAGpuAFreeComesBeforeLaterWork) {
  load(silent_kernel);
  record::cuMemAlloc_v2 allocation;
  allocation.bytes = 4096;
  ASSERT_EQ(ask(allocation), CUDA_SUCCESS);
  launch();
  record::cuMemFree_v2 free;
  free.dptr = 0x100000;
  post(free);
  record::cuLaunchKernel later;
  later.function = Handle::make(HandleKind::function, 0, 1);
  later.grid_x = later.grid_y = later.grid_z = later.block_x = later.block_y = later.block_z = 1;
  post(later);
  begin(record::cuStreamSynchronize{}, 0);
  EXPECT_FALSE(answered(0, 150'000'000));
  EXPECT_EQ(Device::get().launches, 1);
  Device::get().finish();
  EXPECT_TRUE(soon([&] { return Device::get().launches == 2; }));
  EXPECT_EQ(Device::get().frees, 1);
  EXPECT_EQ(Device::get().launches_before_free, 1);
  Device::get().finish();
  EXPECT_EQ(result(0), CUDA_SUCCESS);
}

TEST_F(SessionWaits, ASmallCopyOutOfAnIdleDeviceIsMadeByTheBlockingCall) {
  const auto copy_out = [&] {
    ArenaBlock* const block = arena->allocate(4096);
    record::copy_from_device_block copy;
    copy.src = 0x10000;
    copy.block = {arena->offset(block), 4096};
    post(copy);
    return block;
  };
  const auto done = [&](ArenaBlock* block) {
    return soon([&] { return await_block(*block, 0, 1'000'000); });
  };
  EXPECT_TRUE(done(copy_out()));
  EXPECT_EQ(Device::get().blocking_copies, 1);
  load(silent_kernel);
  launch();
  ArenaBlock* const block = copy_out();
  EXPECT_FALSE(await_block(*block, 0, 5'000'000));
  Device::get().finish();
  EXPECT_TRUE(done(block));
  EXPECT_EQ(Device::get().blocking_copies, 1);
}

/// A client that has opened an event of another one, which never happens.
struct SessionOrphaned : SessionWaits {
  void SetUp() override {
    auto pair = message_socket_pair();
    ASSERT_TRUE(pair);
    worker_end = std::move(pair->first);
    broker_end = std::move(pair->second);
    table.cuIpcOpenEventHandle = [](CUevent* event, CUipcEventHandle) {
      *event = reinterpret_cast<CUevent>(0x60);
      return CUDA_SUCCESS;
    };
    // Of the marks before and behind the wait the first has happened.
    table.cuEventCreate = [](CUevent* event, unsigned) {
      *event = reinterpret_cast<CUevent>(0x70 + 8 * static_cast<std::uintptr_t>(Device::get().launches++));
      return CUDA_SUCCESS;
    };
    table.cuEventQuery = [](CUevent event) {
      return event == reinterpret_cast<CUevent>(0x70) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
    };
    table.cuEventDestroy_v2 = [](CUevent) { return CUDA_SUCCESS; };
    table.cuStreamWaitEvent = [](CUstream, CUevent, unsigned) {
      const std::lock_guard lock(Device::get().mutex);
      Device::get().busy = true;
      return CUDA_SUCCESS;
    };
    SessionWaits::SetUp();
    broker = std::thread([this] {
      for (;;) {
        const auto message = receive_message(broker_end.get(), 10'000);
        const auto* const asked = message ? message->as<IpcRequest>() : nullptr;
        if (asked == nullptr) return;
        IpcAnswer answer;
        answer.number = asked->number;
        answer.result = IpcResult::done;
        answer.maker = 7;
        if (!send_message(broker_end.get(), answer)) return;
      }
    });
  }
  void TearDown() override {
    SessionWaits::TearDown();
    worker_end.reset();
    broker.join();
  }
  UniqueFd broker_end;
  std::thread broker;
};

TEST_F(SessionOrphaned, AStreamThatWaitsForAnEventThatNobodyWillRecordEndsTheSession) {
  const std::uint64_t event = Handle::make(HandleKind::event, 0, 1);
  record::cuIpcOpenEventHandle open;
  open.event = event;
  write_ipc_handle(IpcToken{1}, IpcKind::event, std::as_writable_bytes(std::span(open.handle.reserved)));
  ASSERT_EQ(ask(open), CUDA_SUCCESS);
  record::cuStreamWaitEvent wait;
  wait.hEvent = event;
  post(wait);
  begin(record::cuStreamSynchronize{}, 0);
  EXPECT_TRUE(soon([&] { return ended == SessionEnd::orphaned; }));
  EXPECT_EQ(channel->control().sticky_error.load(), static_cast<std::uint32_t>(CUDA_ERROR_EXTERNAL_DEVICE));
  EXPECT_EQ(gate->page().sticky_error.load(), static_cast<std::uint64_t>(CUDA_ERROR_EXTERNAL_DEVICE));
}

}  // namespace
}  // namespace vgpu::worker
