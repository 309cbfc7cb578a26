// Who may add to, take from and find in the registry of shared things.
#include "daemon/session/ipc_registry.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

namespace vgpu::daemon {
namespace {

IpcToken token(std::uint64_t number) {
  IpcToken made{};
  std::memcpy(made.data(), &number, sizeof number);
  return made;
}

IpcRegistry::Entry entry(std::uint64_t session, IpcKind kind = IpcKind::memory) {
  IpcRegistry::Entry made;
  made.session = session;
  made.kind = kind;
  return made;
}

TEST(IpcRegistry, FindsWhatWasOfferedByItsKind) {
  IpcRegistry registry;
  ASSERT_TRUE(registry.add(token(1), entry(7)));
  ASSERT_NE(registry.find(token(1), IpcKind::memory), nullptr);
  EXPECT_EQ(registry.find(token(1), IpcKind::memory)->session, 7U);
  EXPECT_EQ(registry.find(token(1), IpcKind::event), nullptr);
  EXPECT_EQ(registry.find(token(2), IpcKind::memory), nullptr);
}

TEST(IpcRegistry, ATokenStaysItsFirstOwners) {
  IpcRegistry registry;
  ASSERT_TRUE(registry.add(token(1), entry(7)));
  EXPECT_FALSE(registry.add(token(1), entry(8)));
  EXPECT_TRUE(registry.add(token(1), entry(7))) << "offered again after a restart";
  registry.remove(token(1), 8);
  ASSERT_NE(registry.find(token(1), IpcKind::memory), nullptr);
  registry.remove(token(1), 7);
  EXPECT_EQ(registry.find(token(1), IpcKind::memory), nullptr);
}

TEST(IpcRegistry, ForgetsASessionWhole) {
  IpcRegistry registry;
  ASSERT_TRUE(registry.add(token(1), entry(7)));
  ASSERT_TRUE(registry.add(token(2), entry(7, IpcKind::event)));
  ASSERT_TRUE(registry.add(token(3), entry(8)));
  registry.forget_session(7);
  EXPECT_EQ(registry.find(token(1), IpcKind::memory), nullptr);
  EXPECT_EQ(registry.find(token(2), IpcKind::event), nullptr);
  EXPECT_NE(registry.find(token(3), IpcKind::memory), nullptr);
}

TEST(IpcRegistry, KnowsWhoAloneHasOpenedEventsOfAMaker) {
  IpcRegistry registry;
  EXPECT_FALSE(registry.opened_alone(7, 8)) << "not known";
  registry.opened(7, 8);
  registry.opened(7, 8);
  EXPECT_TRUE(registry.opened_alone(7, 8));
  EXPECT_FALSE(registry.opened_alone(7, 9));
  registry.opened(7, 9);
  EXPECT_FALSE(registry.opened_alone(7, 8)) << "the other one may have recorded it";
  registry.forget_session(7);
  EXPECT_FALSE(registry.opened_alone(7, 8)) << "whether the maker lives or not";
  registry.forget_session(9);
  EXPECT_TRUE(registry.opened_alone(7, 8));
  registry.forget_session(8);
  EXPECT_FALSE(registry.opened_alone(7, 8));
}

TEST(IpcRegistry, BoundsWhatOneSessionHolds) {
  IpcRegistry registry;
  for (std::uint64_t i = 0; i < IpcRegistry::max_offers; ++i) ASSERT_TRUE(registry.add(token(i), entry(7)));
  EXPECT_FALSE(registry.add(token(IpcRegistry::max_offers), entry(7)));
  EXPECT_TRUE(registry.add(token(IpcRegistry::max_offers), entry(8))) << "another session's share is its own";
  registry.remove(token(0), 7);
  EXPECT_TRUE(registry.add(token(0), entry(7)));
}

TEST(IpcRegistry, BoundsDescriptors) {
  IpcRegistry registry;
  for (std::uint64_t i = 0; i <= IpcRegistry::max_descriptors; ++i) {
    IpcRegistry::Entry with_fd = entry(7, IpcKind::allocation);
    with_fd.fd.reset(dup(STDERR_FILENO));
    if (!with_fd.fd) GTEST_SKIP() << "too few descriptors";
    EXPECT_EQ(registry.add(token(i), std::move(with_fd)), i < IpcRegistry::max_descriptors) << i;
  }
}

}  // namespace
}  // namespace vgpu::daemon
