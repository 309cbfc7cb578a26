// Peer access and copies between devices.
#include "softgpu/driver/devices_fixture.hpp"

namespace softgpu {
namespace {

using PeerTest = DevicesTest;

int p2p(CUdevice_P2PAttribute attribute) {
  int value = -1;
  EXPECT_EQ(cuDeviceGetP2PAttribute(&value, attribute, 0, 1), CUDA_SUCCESS);
  return value;
}

TEST_F(PeerTest, DevicesArePeersOfAllOthers) {
  int can = -1;
  EXPECT_EQ(cuDeviceCanAccessPeer(&can, 0, 2), CUDA_SUCCESS);
  EXPECT_EQ(can, 1);
  EXPECT_EQ(cuDeviceCanAccessPeer(&can, 1, 1), CUDA_SUCCESS);
  EXPECT_EQ(can, 0);
  EXPECT_EQ(cuDeviceCanAccessPeer(&can, 0, device_count), CUDA_ERROR_INVALID_DEVICE);
  EXPECT_EQ(cuDeviceCanAccessPeer(nullptr, 0, 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(p2p(CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED), 1);
  EXPECT_EQ(p2p(CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED), 1);
  EXPECT_EQ(p2p(CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK), 0);
  EXPECT_EQ(cuDeviceGetP2PAttribute(&can, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 1, 1),
            CUDA_ERROR_INVALID_DEVICE);
  EXPECT_EQ(cuDeviceGetP2PAttribute(&can, static_cast<CUdevice_P2PAttribute>(0), 0, 1),
            CUDA_ERROR_INVALID_VALUE);
}

// The answers are those of a driver of NVIDIA's with two H100s.
TEST_F(PeerTest, AccessIsEnabledOnceAndOneWay) {
  on(0);
  EXPECT_EQ(cuCtxDisablePeerAccess(contexts_[1]), CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
  EXPECT_EQ(cuCtxEnablePeerAccess(contexts_[1], 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuCtxEnablePeerAccess(contexts_[0], 0), CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
  EXPECT_EQ(cuCtxEnablePeerAccess(nullptr, 0), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_EQ(cuCtxDisablePeerAccess(nullptr), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_EQ(cuCtxEnablePeerAccess(contexts_[1], 0), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxEnablePeerAccess(contexts_[1], 0), CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
  EXPECT_EQ(cuCtxEnablePeerAccess(contexts_[2], 0), CUDA_SUCCESS);
  on(1);
  EXPECT_EQ(cuCtxDisablePeerAccess(contexts_[0]), CUDA_ERROR_PEER_ACCESS_NOT_ENABLED) << "the other way";
  on(0);
  EXPECT_EQ(cuCtxDisablePeerAccess(contexts_[1]), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxDisablePeerAccess(contexts_[1]), CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
  EXPECT_EQ(cuCtxDisablePeerAccess(contexts_[2]), CUDA_SUCCESS);
}

TEST_F(PeerTest, AccessEndsWithEitherContext) {
  on(0);
  ASSERT_EQ(cuCtxEnablePeerAccess(contexts_[1], 0), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxEnablePeerAccess(contexts_[2], 0), CUDA_SUCCESS);
  ASSERT_EQ(cuDevicePrimaryCtxReset_v2(1), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxDisablePeerAccess(contexts_[1]), CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
  ASSERT_EQ(cuDevicePrimaryCtxReset_v2(0), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxDisablePeerAccess(contexts_[2]), CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
  CUcontext own = nullptr;
  ASSERT_EQ(cuCtxCreate_v2(&own, 0, 1), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxDestroy_v2(own), CUDA_SUCCESS);
  on(0);
  EXPECT_EQ(cuCtxEnablePeerAccess(own, 0), CUDA_ERROR_INVALID_CONTEXT) << "destroyed";
}

TEST_F(PeerTest, EveryCopyReachesTheOtherDevice) {
  on(0);
  const CUdeviceptr from = words(16);
  ASSERT_EQ(cuMemsetD32_v2(from, 3, 16), CUDA_SUCCESS);
  on(1);
  const CUdeviceptr to = words(16);
  const CUstream s = stream();
  std::uint32_t round = 3;
  // Another value each time, so that a copy that did nothing is found out.
  const auto arrived = [&](const char* how) {
    ASSERT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
    EXPECT_EQ(read(to, 16), std::vector<std::uint32_t>(16, round)) << how;
    ++round;
    on(0);
    ASSERT_EQ(cuMemsetD32_v2(from, round, 16), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    on(1);
  };
  ASSERT_EQ(cuMemcpyPeer(to, contexts_[1], from, contexts_[0], 64), CUDA_SUCCESS);
  arrived("peer");
  ASSERT_EQ(cuMemcpyPeerAsync(to, contexts_[1], from, contexts_[0], 64, s), CUDA_SUCCESS);
  arrived("peer, asynchronously");
  ASSERT_EQ(cuMemcpyPeer(to, nullptr, from, nullptr, 64), CUDA_SUCCESS);
  arrived("contexts left out");
  ASSERT_EQ(cuMemcpy(to, from, 64), CUDA_SUCCESS);
  arrived("by address");
  ASSERT_EQ(cuMemcpyAsync(to, from, 64, s), CUDA_SUCCESS);
  arrived("by address, asynchronously");
  ASSERT_EQ(cuMemcpyDtoD_v2(to, from, 64), CUDA_SUCCESS);
  arrived("device to device");
  CUDA_MEMCPY3D_PEER box{};
  box.srcMemoryType = box.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  box.srcDevice = from;
  box.srcContext = contexts_[0];
  box.dstDevice = to;
  box.dstContext = contexts_[1];
  box.srcPitch = box.dstPitch = box.WidthInBytes = 16;
  box.srcHeight = box.dstHeight = box.Height = 2;
  box.Depth = 2;
  ASSERT_EQ(cuMemcpy3DPeer(&box), CUDA_SUCCESS);
  arrived("box");
  ASSERT_EQ(cuMemcpy3DPeerAsync(&box, s), CUDA_SUCCESS);
  arrived("box, asynchronously");
}

TEST_F(PeerTest, ContextsOfACopyMustBeOnes) {
  on(0);
  const CUdeviceptr memory = words(2);
  CUcontext own = nullptr;
  ASSERT_EQ(cuCtxCreate_v2(&own, 0, 1), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxDestroy_v2(own), CUDA_SUCCESS);
  on(0);
  EXPECT_EQ(cuMemcpyPeer(memory, own, memory + 4, contexts_[0], 4), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  const auto bogus = reinterpret_cast<CUcontext>(&own);
  EXPECT_EQ(cuMemcpyPeer(memory, contexts_[0], memory + 4, bogus, 4), CUDA_ERROR_INVALID_CONTEXT);
  CUDA_MEMCPY3D_PEER box{};
  box.srcContext = bogus;
  EXPECT_EQ(cuMemcpy3DPeer(&box), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_EQ(cuMemcpy3DPeer(nullptr), CUDA_ERROR_INVALID_VALUE);
}

// CUDA C++ Programming Guide, "Peer-to-Peer Memory Copy".
TEST_F(PeerTest, ACopyInStreamZeroComesBetweenTheWorkOfBothDevices) {
  std::uint32_t* const gate = host_words(1);
  std::uint32_t* const result = host_words(2);
  on(1);
  const CUdeviceptr there = words(1);
  const CUstream before = stream(CU_STREAM_DEFAULT);
  ASSERT_EQ(spin(1, device(gate), before), CUDA_SUCCESS);
  ASSERT_EQ(add(1, there, 1, 5, before), CUDA_SUCCESS);
  on(0);
  const CUdeviceptr here = words(1);
  ASSERT_EQ(cuMemcpyPeer(here, contexts_[0], there, contexts_[1], 4), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyAsync(device(result), here, 4, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamQuery(nullptr), CUDA_ERROR_NOT_READY) << "waits for the other device's work";
  on(1);
  const CUstream after = stream(CU_STREAM_DEFAULT);
  ASSERT_EQ(add(1, there, 1, 100, after), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamQuery(after), CUDA_ERROR_NOT_READY) << "waits for the copy";
  const CUstream free = stream(CU_STREAM_NON_BLOCKING);
  ASSERT_EQ(cuMemcpyAsync(device(result + 1), there, 4, free), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(free), CUDA_SUCCESS) << "a stream that waits for no stream 0";
  raise(gate);
  ASSERT_EQ(cuStreamSynchronize(after), CUDA_SUCCESS);
  on(0);
  ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_EQ(result[0], 5U);
  EXPECT_EQ(read(there, 1)[0], 105U);
}

}  // namespace
}  // namespace softgpu
