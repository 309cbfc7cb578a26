#include "libclient/cuda/contexts.hpp"

#include <gtest/gtest.h>

#include <thread>

namespace vgpu::client {
namespace {

TEST(ContextStack, PushesAndPopsInOrder) {
  Contexts contexts;
  Context* a = contexts.create(0, 0, 4);
  Context* b = contexts.create(0, 0, 4);
  ThreadState thread;
  push_context(thread, a);
  push_context(thread, b);
  EXPECT_EQ(thread.current, b);
  Context* popped = nullptr;
  EXPECT_EQ(pop_context(thread, popped), CUDA_SUCCESS);
  EXPECT_EQ(popped, b);
  EXPECT_EQ(thread.current, a);
  EXPECT_EQ(pop_context(thread, popped), CUDA_SUCCESS);
  EXPECT_EQ(popped, a);
  EXPECT_EQ(pop_context(thread, popped), CUDA_ERROR_INVALID_CONTEXT);
}

TEST(ContextStack, SettingReplacesOnlyTheTop) {
  Contexts contexts;
  Context* a = contexts.create(0, 0, 4);
  Context* b = contexts.create(0, 0, 4);
  ThreadState thread;
  set_context(thread, a);
  push_context(thread, b);
  set_context(thread, a);
  Context* popped = nullptr;
  EXPECT_EQ(pop_context(thread, popped), CUDA_SUCCESS);
  EXPECT_EQ(thread.current, a);
  set_context(thread, nullptr);
  EXPECT_EQ(thread.current, nullptr);
}

TEST(Contexts, KnowsADestroyedContextNoMore) {
  Contexts contexts;
  Context* context = contexts.create(0, CU_CTX_SCHED_SPIN, 4);
  const CUcontext handle = context->cu();
  EXPECT_EQ(contexts.find(handle), context);
  contexts.destroy(*context);
  EXPECT_EQ(contexts.find(handle), nullptr);
  EXPECT_FALSE(context->live);
  EXPECT_NE(contexts.create(0, 0, 4)->cu(), handle);
}

TEST(Contexts, CountsRetainsOfThePrimaryContext) {
  Contexts contexts;
  const CUcontext handle = contexts.primary().cu();
  EXPECT_TRUE(contexts.retain_primary());
  EXPECT_FALSE(contexts.retain_primary());
  EXPECT_EQ(contexts.release_primary(), 0);
  EXPECT_EQ(contexts.release_primary(), 1);
  EXPECT_EQ(contexts.release_primary(), -1);
  EXPECT_FALSE(contexts.primary().live);
  EXPECT_EQ(contexts.primary().cu(), handle);
}

TEST(Contexts, EachDeviceHasAPrimaryOneOfItsOwn) {
  Contexts contexts(3);
  for (CUdevice device = 0; device < 3; ++device) {
    const Context& primary = contexts.primary(device);
    EXPECT_EQ(primary.device, device);
    EXPECT_EQ(primary.index, device) << "what records carry";
    EXPECT_TRUE(primary.primary);
    EXPECT_FALSE(primary.live);
  }
  EXPECT_GE(contexts.create(1, 0, 4)->index, 3);
}

TEST(Contexts, ASecondDevicesContextIsOneMoreToWorkIn) {
  Contexts contexts(2);
  contexts.retain_primary(0);
  EXPECT_TRUE(contexts.only_primary());
  contexts.retain_primary(1);
  EXPECT_FALSE(contexts.only_primary());
  EXPECT_EQ(contexts.release_primary(1), 1);
  EXPECT_TRUE(contexts.primary(0).live);
  EXPECT_FALSE(contexts.primary(1).live);
  EXPECT_FALSE(contexts.only_primary()) << "what was sent to it may go on";
}

TEST(ThreadState, BelongsToOneThread) {
  ThreadState* here = &this_thread();
  EXPECT_EQ(&this_thread(), here);
  ThreadState* there = nullptr;
  std::thread([&] { there = &this_thread(); }).join();
  EXPECT_NE(there, here);
}

}  // namespace
}  // namespace vgpu::client
