// What the session's dispatcher holds back until earlier work has ended, and what it lets pass, over a device
// whose work ends when the test says so.
#include <gtest/gtest.h>

#include <cstdint>
#include <span>

#include "daemon/worker/session_waits_fixture.hpp"
#include "protocol/arena.hpp"
#include "protocol/handle.hpp"

namespace vgpu::worker {
namespace {

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
    BusyDevice::get().reset();
    record::await_stream awaited;
    awaited.stream = streams[0];
    copy_in(streams[0]);
    post(awaited);
    copy_in(streams[0]);
    post(awaited);
    ASSERT_TRUE(soon([] { return BusyDevice::get().copies_in == 2; }));
    if (other_copy) copy_in(streams[1]);
    post(kernel());
    begin(record::cuCtxSynchronize{}, 0);
    EXPECT_FALSE(answered(0, 50'000'000));
    EXPECT_EQ(BusyDevice::get().launches, 0);
    EXPECT_EQ(BusyDevice::get().copies_in, 2);
    BusyDevice::get().finish();
    EXPECT_TRUE(soon([] { return BusyDevice::get().launches == 1; }));
    EXPECT_EQ(BusyDevice::get().copies_in, other_copy ? 3 : 2);
    BusyDevice::get().finish();
    EXPECT_EQ(result(0), CUDA_SUCCESS);
  }
}

TEST_F(SessionWaits, AnAwaitedStreamThatIsUnknownIsAnErrorAndHoldsNothingBack) {
  load(silent_kernel);
  record::await_stream awaited;
  awaited.stream = Handle::make(HandleKind::stream, 7, 1);
  post(awaited);
  launch();
  BusyDevice::get().finish();
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
  post(kernel());
  begin(record::cuStreamSynchronize{}, 0);
  EXPECT_FALSE(answered(0, 150'000'000));
  EXPECT_EQ(BusyDevice::get().launches, 1);
  BusyDevice::get().finish();
  EXPECT_TRUE(soon([&] { return BusyDevice::get().launches == 2; }));
  EXPECT_EQ(BusyDevice::get().frees, 1);
  EXPECT_EQ(BusyDevice::get().launches_before_free, 1);
  BusyDevice::get().finish();
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
  EXPECT_EQ(BusyDevice::get().blocking_copies, 1);
  load(silent_kernel);
  launch();
  ArenaBlock* const block = copy_out();
  EXPECT_FALSE(await_block(*block, 0, 5'000'000));
  BusyDevice::get().finish();
  EXPECT_TRUE(done(block));
  EXPECT_EQ(BusyDevice::get().blocking_copies, 1);
}

}  // namespace
}  // namespace vgpu::worker
