// Memory of vgpud-worker as a client sees it: copies, quotas, mappings, and regions of the host that both
// share.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <utility>
#include <vector>

#include "daemon/worker/worker_fixture.hpp"
#include "protocol/address_space.hpp"
#include "protocol/handle.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::worker {
namespace {

TEST_F(WorkerTest, MemoryRoundTrip) {
  constexpr std::uint64_t bytes = 1 << 20;
  const std::uint64_t device = allocate(bytes);
  ASSERT_NE(device, 0u);
  ArenaBlock* const block = worker->arena().allocate(bytes);
  auto* const data = reinterpret_cast<std::uint32_t*>(Arena::data(block));
  for (std::uint32_t i = 0; i < bytes / 4; ++i) data[i] = i * 2654435761u;
  record::copy_to_device_block copy;
  copy.dst = device;
  copy.block = {worker->arena().offset(block), bytes};
  worker->post(copy);
  ArenaBlock* const back = worker->read_back(device, bytes);
  EXPECT_EQ(back->result, 0);
  EXPECT_EQ(std::memcmp(Arena::data(back), data, bytes), 0);
  EXPECT_TRUE(block_done(*block));
  EXPECT_EQ(synchronize(), CUDA_SUCCESS);
}

TEST_F(WorkerTest, InlineCopiesAndMemsetsKeepTheirOrder) {
  const std::uint64_t device = allocate(4096);
  for (int i = 0; i < 200; ++i) {
    record::cuMemsetD8Async set;
    set.dstDevice = device;
    set.uc = 0;
    set.N = 4096;
    worker->post(set);
    std::vector<std::byte> bytes(64, static_cast<std::byte>(i));
    record::copy_to_device_inline copy;
    copy.dst = device + 64 * static_cast<std::uint64_t>(i % 64);
    worker->post(copy, bytes);
  }
  ArenaBlock* const back = worker->read_back(device, 4096);
  EXPECT_EQ(Arena::data(back)[64 * (199 % 64)], std::byte{199});
  EXPECT_EQ(Arena::data(back)[0], std::byte{0});
}

TEST_F(WorkerTest, WorkerMemoryIsNotReachableByAddress) {
  const std::uint64_t device = allocate(4096);
  record::cuMemcpyAsync copy;
  copy.dst = reinterpret_cast<std::uint64_t>(&copy);
  copy.src = device;
  copy.ByteCount = 8;
  worker->post(copy);
  EXPECT_EQ(synchronize(), CUDA_ERROR_INVALID_VALUE);
  record::copy_to_device_block block;
  block.dst = device;
  block.block = {worker->channel().arena().size() - 64, 4096};
  worker->post(block);
  EXPECT_EQ(synchronize(), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(WorkerTest, QuotaIsOutOfMemoryAndMemGetInfoMatches) {
  start(8 << 20);
  const std::uint64_t first = allocate(6 << 20);
  record::cuMemAlloc_v2 record;
  record.bytes = 4 << 20;
  EXPECT_EQ(worker->ask(record), CUDA_ERROR_OUT_OF_MEMORY);
  reply::cuMemGetInfo_v2 info;
  EXPECT_EQ(worker->ask(record::cuMemGetInfo_v2{}, info), CUDA_SUCCESS);
  EXPECT_EQ(info.total, 8u << 20);
  EXPECT_EQ(info.free, 2u << 20);
  record::cuMemFree_v2 free;
  free.dptr = first;
  worker->post(free);
  EXPECT_EQ(worker->ask(record), CUDA_SUCCESS);
}

TEST_F(WorkerTest, MappedMemoryStaysChargedWhenItsHandleIsReleased) {
  constexpr std::uint64_t bytes = 2 << 20;
  record::cuMemAddressReserve reserve;
  reserve.size = bytes;
  reply::cuMemAddressReserve place;
  ASSERT_EQ(worker->ask(reserve, place), CUDA_SUCCESS);
  record::cuMemCreate create;
  create.handle = Handle::make(HandleKind::mem_allocation, 1, 1);
  create.bytes = bytes;
  create.prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  create.prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  ASSERT_EQ(worker->ask(create), CUDA_SUCCESS);
  EXPECT_EQ(worker->ask(create), CUDA_ERROR_INVALID_HANDLE) << "the handle is in use";
  record::cuMemMap map;
  map.ptr = place.ptr;
  map.bytes = bytes;
  map.handle = create.handle;
  ASSERT_EQ(worker->ask(map), CUDA_SUCCESS);
  record::cuMemRelease release;
  release.handle = create.handle;
  ASSERT_EQ(worker->ask(release), CUDA_SUCCESS);
  EXPECT_EQ(worker->gate().memory_used.load(), bytes);
  record::cuMemUnmap unmap;
  unmap.ptr = place.ptr;
  unmap.size = bytes;
  ASSERT_EQ(worker->ask(unmap), CUDA_SUCCESS);
  EXPECT_EQ(worker->gate().memory_used.load(), 0u);
}

TEST_F(WorkerTest, HostRegionIsSharedAtOneAddress) {
  constexpr std::uint64_t bytes = 1 << 20;
  const std::uint64_t address = host_window_base + (16 << 20);
  const UniqueFd fd(memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(fd.get(), bytes), 0);
  fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  auto* const mine =
      static_cast<std::uint8_t*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  const int fds[] = {fd.get()};
  HostRegion region;
  region.address = address;
  region.bytes = bytes;
  ASSERT_TRUE(send_message(worker->direct_socket(), region, fds));
  record::host_map map;
  map.address = address;
  map.bytes = bytes;
  reply::host_map mapped;
  ASSERT_EQ(worker->ask(map, mapped), CUDA_SUCCESS);
  EXPECT_EQ(mapped.dptr, address);
  std::memset(mine, 7, bytes);
  const std::uint64_t device = allocate(bytes);
  record::cuMemcpyAsync copy;
  copy.dst = device;
  copy.src = address;
  copy.ByteCount = bytes;
  worker->post(copy);
  std::swap(copy.dst, copy.src);
  copy.dst = address;
  copy.src = device;
  ASSERT_EQ(synchronize(), CUDA_SUCCESS);
  std::memset(mine, 0, bytes);
  worker->post(copy);
  ASSERT_EQ(synchronize(), CUDA_SUCCESS);
  EXPECT_EQ(mine[bytes - 1], 7);
  record::host_unmap unmap;
  unmap.address = address;
  EXPECT_EQ(worker->ask(unmap), CUDA_SUCCESS);
  EXPECT_EQ(worker->ask(unmap), CUDA_ERROR_INVALID_VALUE);
  worker->post(copy);
  EXPECT_EQ(synchronize(), CUDA_ERROR_INVALID_VALUE);
  munmap(mine, bytes);
}

TEST_F(WorkerTest, HostRegionThatCouldShrinkIsRefused) {
  const UniqueFd fd(memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(fd.get(), 4096), 0);
  const int fds[] = {fd.get()};
  HostRegion region;
  region.address = host_window_base;
  region.bytes = 4096;
  ASSERT_TRUE(send_message(worker->direct_socket(), region, fds));
  record::host_map map;
  map.address = host_window_base;
  map.bytes = 4096;
  EXPECT_EQ(worker->ask(map), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(worker->ask(map), CUDA_ERROR_INVALID_VALUE);
}

}  // namespace
}  // namespace vgpu::worker
