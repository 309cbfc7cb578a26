// Streams and events: order, overlap, waits, callbacks.
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>

#include "softgpu/driver/driver_fixture.hpp"

namespace softgpu {
namespace {

using StreamTest = DriverTest;

TEST_F(StreamTest, OperationsOfAStreamRunInOrder) {
  constexpr std::uint32_t count = 500;
  const CUdeviceptr list = words(count + 1);
  const CUstream s = stream();
  for (std::uint32_t i = 0; i < count; ++i) ASSERT_EQ(append(list, i, s), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  std::vector<std::uint32_t> expected(count + 1);
  expected[0] = count;
  std::iota(expected.begin() + 1, expected.end(), 0U);
  EXPECT_EQ(read(list, count + 1), expected);
}

TEST_F(StreamTest, StreamsRunSideBySide) {
  std::uint32_t* const gate = host_words(1);
  const CUstream waiting = stream();
  const CUstream other = stream();
  ASSERT_EQ(spin(device(gate), waiting), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamQuery(waiting), CUDA_ERROR_NOT_READY);
  const CUdeviceptr list = words(2);
  ASSERT_EQ(append(list, 9, other), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(other), CUDA_SUCCESS) << "not held up by the waiting one";
  EXPECT_EQ(cuStreamQuery(waiting), CUDA_ERROR_NOT_READY);
  raise(gate);
  EXPECT_EQ(cuStreamSynchronize(waiting), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamQuery(waiting), CUDA_SUCCESS);
}

TEST_F(StreamTest, TheLegacyStreamOrdersBlockingStreamsOnly) {
  std::uint32_t* const gate = host_words(1);
  const CUstream blocking = stream(CU_STREAM_DEFAULT);
  const CUstream free_stream = stream(CU_STREAM_NON_BLOCKING);
  const CUdeviceptr list = words(8);
  ASSERT_EQ(spin(device(gate), blocking), CUDA_SUCCESS);
  ASSERT_EQ(append(list, 1, nullptr), CUDA_SUCCESS);   // after the blocking stream
  ASSERT_EQ(append(list, 2, blocking), CUDA_SUCCESS);  // after the legacy stream
  const CUdeviceptr other = words(2);
  ASSERT_EQ(append(other, 3, free_stream), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(free_stream), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamQuery(nullptr), CUDA_ERROR_NOT_READY);
  raise(gate);
  EXPECT_EQ(cuStreamSynchronize(blocking), CUDA_SUCCESS);
  EXPECT_EQ(read(list, 3), (std::vector<std::uint32_t>{2, 1, 2}));
}

TEST_F(StreamTest, EachThreadHasADefaultStreamOfItsOwn) {
  std::uint32_t* const gate = host_words(1);
  ASSERT_EQ(spin(device(gate), CU_STREAM_PER_THREAD), CUDA_SUCCESS);
  std::thread([&] {
    ASSERT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
    const CUdeviceptr list = words(2);
    ASSERT_EQ(append(list, 1, CU_STREAM_PER_THREAD), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamSynchronize_ptsz(nullptr), CUDA_SUCCESS);
  }).join();
  EXPECT_EQ(cuStreamQuery(CU_STREAM_PER_THREAD), CUDA_ERROR_NOT_READY);
  raise(gate);
  EXPECT_EQ(cuStreamSynchronize(CU_STREAM_PER_THREAD), CUDA_SUCCESS);
}

TEST_F(StreamTest, EventsOrderStreams) {
  std::uint32_t* const gate = host_words(1);
  const CUstream first = stream();
  const CUstream second = stream();
  const CUevent done = event();
  const CUdeviceptr list = words(3);
  ASSERT_EQ(spin(device(gate), first), CUDA_SUCCESS);
  ASSERT_EQ(append(list, 1, first), CUDA_SUCCESS);
  ASSERT_EQ(cuEventRecord(done, first), CUDA_SUCCESS);
  EXPECT_EQ(cuEventQuery(done), CUDA_ERROR_NOT_READY);
  ASSERT_EQ(cuStreamWaitEvent(second, done, 0), CUDA_SUCCESS);
  ASSERT_EQ(append(list, 2, second), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamQuery(second), CUDA_ERROR_NOT_READY);
  raise(gate);
  EXPECT_EQ(cuStreamSynchronize(second), CUDA_SUCCESS);
  EXPECT_EQ(cuEventQuery(done), CUDA_SUCCESS);
  EXPECT_EQ(read(list, 3), (std::vector<std::uint32_t>{2, 1, 2}));
}

TEST_F(StreamTest, EventsMeasureTime) {
  std::uint32_t* const gate = host_words(1);
  const CUstream s = stream();
  const CUevent start = event();
  const CUevent end = event();
  float milliseconds = 0;
  EXPECT_EQ(cuEventElapsedTime_v2(&milliseconds, start, end), CUDA_ERROR_INVALID_HANDLE) << "never recorded";
  ASSERT_EQ(cuEventRecord(start, s), CUDA_SUCCESS);
  ASSERT_EQ(spin(device(gate), s), CUDA_SUCCESS);
  ASSERT_EQ(cuEventRecord(end, s), CUDA_SUCCESS);
  EXPECT_EQ(cuEventElapsedTime_v2(&milliseconds, start, end), CUDA_ERROR_NOT_READY);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  raise(gate);
  ASSERT_EQ(cuEventSynchronize(end), CUDA_SUCCESS);
  ASSERT_EQ(cuEventElapsedTime_v2(&milliseconds, start, end), CUDA_SUCCESS);
  EXPECT_GE(milliseconds, 19.F);
  EXPECT_LT(milliseconds, 5000.F);
}

TEST_F(StreamTest, HostFunctionsRunInOrderAndMayBlock) {
  std::uint32_t* const gate = host_words(1);
  const CUstream s = stream();
  const CUstream other = stream();
  const CUdeviceptr list = words(3);
  ASSERT_EQ(append(list, 1, s), CUDA_SUCCESS);
  ASSERT_EQ(cuLaunchHostFunc(
                s,
                [](void* word) {
                  const std::atomic_ref<std::uint32_t> open(*static_cast<std::uint32_t*>(word));
                  while (open.load(std::memory_order_acquire) == 0) std::this_thread::yield();
                },
                gate),
            CUDA_SUCCESS);
  ASSERT_EQ(append(list, 2, s), CUDA_SUCCESS);
  EXPECT_EQ(cuLaunchHostFunc(
                other, [](void* word) { raise(static_cast<std::uint32_t*>(word)); }, gate),
            CUDA_SUCCESS)
      << "another host function still runs";
  EXPECT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  EXPECT_EQ(read(list, 3), (std::vector<std::uint32_t>{2, 1, 2}));
}

TEST_F(StreamTest, CallbacksRunAfterAnErrorToo) {
  const CUstream s = stream();
  ASSERT_EQ(launch("fault", s), CUDA_SUCCESS);
  std::atomic<int> seen{-1};
  const CUresult added = cuStreamAddCallback(
      s, [](CUstream, CUresult status, void* out) { *static_cast<std::atomic<int>*>(out) = status; }, &seen,
      0);
  EXPECT_EQ(cuStreamSynchronize(s), CUDA_ERROR_ILLEGAL_ADDRESS);
  if (added == CUDA_SUCCESS) {
    while (seen == -1) std::this_thread::yield();
    EXPECT_EQ(seen, CUDA_ERROR_ILLEGAL_ADDRESS);
  }
}

TEST_F(StreamTest, WaitValueHoldsItsStreamUntilSomebodyWrites) {
  std::uint32_t* const word = host_words(2);
  const CUstream waiting = stream();
  const CUstream writing = stream();
  const CUdeviceptr list = words(2);
  ASSERT_EQ(cuStreamWaitValue32_v2(waiting, device(word), 5, CU_STREAM_WAIT_VALUE_GEQ), CUDA_SUCCESS);
  ASSERT_EQ(append(list, 1, waiting), CUDA_SUCCESS);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(cuStreamQuery(waiting), CUDA_ERROR_NOT_READY);
  ASSERT_EQ(cuStreamWriteValue32_v2(writing, device(word), 6, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(waiting), CUDA_SUCCESS);
  EXPECT_EQ(read(list, 2)[0], 1U);
  EXPECT_EQ(cuStreamWaitValue64_v2(waiting, device(word) + 4, 1, 0), CUDA_ERROR_INVALID_VALUE)
      << "misaligned";
}

TEST_F(StreamTest, DestroyedStreamsFinishTheirWork) {
  std::uint32_t* const gate = host_words(1);
  const CUdeviceptr list = words(2);
  const CUstream s = stream();
  ASSERT_EQ(spin(device(gate), s), CUDA_SUCCESS);
  ASSERT_EQ(append(list, 4, s), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamDestroy_v2(s), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamDestroy_v2(s), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(append(list, 4, s), CUDA_ERROR_INVALID_HANDLE);
  raise(gate);
  EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_EQ(read(list, 2), (std::vector<std::uint32_t>{1, 4}));
}

TEST_F(StreamTest, SixteenThreadsLaunchAtOnce) {
  constexpr int threads = 16;
  constexpr std::uint32_t launches = 100;
  const CUdeviceptr counters = words(threads);
  std::vector<std::thread> running;
  running.reserve(threads);
  for (int t = 0; t < threads; ++t) {
    running.emplace_back([&, t] {
      ASSERT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
      const CUstream s = t % 2 == 0 ? stream() : CU_STREAM_PER_THREAD;
      for (std::uint32_t i = 0; i < launches; ++i) {
        ASSERT_EQ(add(counters + static_cast<unsigned>(t) * 4, 1, 1, s), CUDA_SUCCESS);
        if (i % 10 == 0) {
          ASSERT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
        }
      }
      ASSERT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
    });
  }
  for (auto& thread : running) thread.join();
  EXPECT_EQ(read(counters, threads), std::vector<std::uint32_t>(threads, launches));
}

}  // namespace
}  // namespace softgpu
