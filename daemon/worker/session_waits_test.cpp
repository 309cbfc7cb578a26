// How the session's dispatcher waits for streams, events and the device, over a device whose work ends when
// the test says so: what it asks of the driver, what it does meanwhile, and when it gives up.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <span>
#include <thread>

#include "daemon/worker/session_waits_fixture.hpp"
#include "protocol/handle.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::worker {
namespace {

TEST_F(SessionWaits, AFinishedStreamIsAnsweredByOneQuestion) {
  load(silent_kernel);
  launch();
  BusyDevice::get().finish();
  EXPECT_EQ(ask(record::cuStreamSynchronize{}), CUDA_SUCCESS);
  EXPECT_EQ(BusyDevice::get().events_recorded, 0);
  EXPECT_EQ(BusyDevice::get().synchronisations, 0);
}

TEST_F(SessionWaits, AnotherRecordIsRunWhileOneWaits) {
  load(silent_kernel);
  launch();
  begin(record::cuStreamSynchronize{}, 0);
  EXPECT_FALSE(answered(0, 2'000'000));
  launch();  // has the wait for the first launch turned into one by an event
  EXPECT_GT(BusyDevice::get().events_recorded, 0);
  EXPECT_FALSE(answered(0));
  BusyDevice::get().finish();
  EXPECT_EQ(result(0), CUDA_SUCCESS);
}

TEST_F(SessionWaits, ALongWaitOutlastsTheSpin) {
  load(silent_kernel);
  launch();
  begin(record::cuCtxSynchronize{}, 0);
  EXPECT_FALSE(answered(0, 60'000'000));
  BusyDevice::get().finish();
  EXPECT_EQ(result(0), CUDA_SUCCESS);
}

TEST_F(SessionWaits, WorkThatNobodyWaitsForIsSeenToEndWithoutAnEvent) {
  load(silent_kernel);
  launch();
  EXPECT_TRUE(soon([&] { return gate->page().backlogged.load() == 1; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(gate->page().backlogged.load(), 1U);
  BusyDevice::get().finish();
  EXPECT_TRUE(soon([&] { return gate->page().backlogged.load() == 0; }));
  EXPECT_EQ(BusyDevice::get().events_recorded, 0);
}

TEST_F(SessionWaits, WhereOthersWantTheDeviceTheEndIsWaitedFor) {
  load(silent_kernel);
  gate->page().allowance_ns.store(1'000'000'000'000);
  launch();
  EXPECT_TRUE(soon([&] { return BusyDevice::get().events_recorded > 0; }));
  BusyDevice::get().finish();
  EXPECT_TRUE(soon([&] { return gate->page().backlogged.load() == 0; }));
}

TEST_F(SessionWaits, OnlyKernelsThatMayPrintCostASynchronisation) {
  load(silent_kernel + ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);\n");
  launch();
  BusyDevice::get().finish();
  EXPECT_EQ(ask(record::cuStreamSynchronize{}), CUDA_SUCCESS);
  EXPECT_EQ(BusyDevice::get().synchronisations, 1);
}

TEST_F(SessionWaits, AQuestionAboutAnEarlierEventNeedNotWaitAtTheGate) {
  load(silent_kernel);
  record::cuEventCreate made;
  made.event = Handle::make(HandleKind::event, 0, 1);
  post(made);
  record::cuEventRecord recorded;
  recorded.hEvent = made.event;
  post(recorded);
  ASSERT_TRUE(soon([&] { return BusyDevice::get().events_recorded > 0; }));
  gate->page().allowance_ns.store(0);
  post(kernel());
  ASSERT_TRUE(soon([&] { return gate->page().blocked.load() == 1; }));
  record::cuEventSynchronize question;
  question.hEvent = made.event;
  EXPECT_EQ(ask(question), CUDA_SUCCESS);  // which a dispatcher asleep at its gate is woken for
  post(recorded);
  begin(question, 0);
  EXPECT_FALSE(answered(0, 30'000'000));  // it asks for work that has to wait
  EXPECT_EQ(BusyDevice::get().launches, 0);
  gate->page().allowance_ns.store(no_limit_ns);
  gate->page().refill.fetch_add(1);
  EXPECT_TRUE(soon([&] { return BusyDevice::get().launches == 1; }));
  BusyDevice::get().finish();
  EXPECT_EQ(result(0), CUDA_SUCCESS);
  EXPECT_EQ(ask(question), CUDA_SUCCESS);
}

TEST_F(SessionWaits, WorkOfADestroyedStreamBelongsToItsContext) {
  load(silent_kernel);
  record::cuStreamCreate made;
  made.stream = Handle::make(HandleKind::stream, 0, 1);
  post(made);
  record::cuLaunchKernel last = kernel();
  last.stream = made.stream;
  post(last);
  record::cuStreamDestroy_v2 gone;
  gone.stream = made.stream;
  post(gone);
  begin(record::cuCtxSynchronize{}, 0);
  EXPECT_FALSE(answered(0, 50'000'000));
  EXPECT_EQ(BusyDevice::get().launches, 1);
  BusyDevice::get().finish();
  EXPECT_EQ(result(0), CUDA_SUCCESS);
  EXPECT_EQ(ask(record::cuCtxSynchronize{}), CUDA_SUCCESS);
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
      *event =
          reinterpret_cast<CUevent>(0x70 + 8 * static_cast<std::uintptr_t>(BusyDevice::get().launches++));
      return CUDA_SUCCESS;
    };
    table.cuEventQuery = [](CUevent event) {
      return event == reinterpret_cast<CUevent>(0x70) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
    };
    table.cuEventDestroy_v2 = [](CUevent) { return CUDA_SUCCESS; };
    table.cuStreamWaitEvent = [](CUstream, CUevent, unsigned) {
      const std::lock_guard lock(BusyDevice::get().mutex);
      BusyDevice::get().busy = true;
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
