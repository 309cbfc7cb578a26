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

TEST(ThreadState, BelongsToOneThread) {
  ThreadState* here = &this_thread();
  EXPECT_EQ(&this_thread(), here);
  ThreadState* there = nullptr;
  std::thread([&] { there = &this_thread(); }).join();
  EXPECT_NE(there, here);
}

}  // namespace
}  // namespace vgpu::client
