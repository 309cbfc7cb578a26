// The keeper over real gate pages, which the tests write as workers would, honest and other.
#include "daemon/scheduler/residence_keeper.hpp"

#include <gtest/gtest.h>

#include "daemon/base/event_loop.hpp"
#include "protocol/futex.hpp"

namespace vgpu::daemon {
namespace {

// A worker's half of the page.
struct PageWriter {
  PageWriter() {
    UniqueFd fd;
    auto made = GateMapping::create(fd);
    EXPECT_TRUE(made);
    gate = std::move(*made);
    page().memory_movable.store(1);
  }
  GatePage& page() const { return gate->page(); }
  void ask(std::uint64_t wanted, bool short_of = false) const {
    page().memory_wanted.store(wanted);
    page().memory_short.store(short_of ? 1 : 0);
    page().memory_request.fetch_add(1);
  }
  [[nodiscard]] bool granted() const { return page().memory_answered.load() == page().memory_request.load(); }
  [[nodiscard]] bool refused() const { return page().memory_refused.load() == page().memory_request.load(); }
  [[nodiscard]] bool ordered() const {
    return page().memory_order.load() != page().memory_obeyed.load() &&
           page().memory_order.load() != page().memory_excused.load();
  }
  void claim(std::uint64_t bytes) const { page().memory_claim.store(bytes); }
  void take(std::uint64_t bytes) const {
    page().memory_wanted.store(0);
    claim(bytes);
  }
  void move_part(std::uint64_t bytes) const {
    page().memory_out.store(1);
    page().memory_moved.fetch_add(bytes);
    claim(page().memory_claim.load() - bytes);
  }
  void move_out() const {
    move_part(page().memory_claim.load());
    page().memory_obeyed.store(page().memory_order.load());
  }
  void come_back() const {
    take(page().memory_moved.exchange(0));
    page().memory_out.store(0);
  }
  std::shared_ptr<GateMapping> gate;
};

class ResidenceKeeperTest : public testing::Test {
 protected:
  static ResidenceOptions keeper_options() {
    ResidenceOptions result;
    result.host_limit = 1000;
    result.minimum_residence_ns = 0;
    result.idle_after_ns = 0;
    return result;
  }
  void SetUp() override {
    keeper.set_device(100, 0, [] { return 3U; });
    keeper.open();
    keeper.add(1, 1, first.gate);
    keeper.add(2, 1, second.gate);
  }
  // The first client holds 60.
  void fill() {
    first.ask(60);
    keeper.look();
    ASSERT_TRUE(first.granted());
    first.take(60);
  }
  // It makes room for the second one, which holds 70 then.
  void exchange() {
    fill();
    second.ask(70);
    keeper.look();
    first.move_out();
    keeper.look();
    second.take(70);
  }
  EventLoop loop;
  ResidenceKeeper keeper{loop, keeper_options()};
  PageWriter first, second;
};

TEST_F(ResidenceKeeperTest, GrantsMovesAndBringsBack) {
  fill();
  second.ask(70);
  keeper.look();
  EXPECT_FALSE(second.granted());
  ASSERT_TRUE(first.ordered());
  EXPECT_EQ(second.page().memory_contended.load(), 1U);
  keeper.look();
  EXPECT_EQ(first.page().memory_order.load(), 1U) << "one order is enough";
  first.move_out();
  keeper.look();
  ASSERT_TRUE(second.granted());
  EXPECT_GE(second.page().memory_granted.load(), 70U);
  EXPECT_EQ(first.page().memory_granted.load(), 0U);
  EXPECT_EQ(second.page().memory_contended.load(), 0U);
  second.take(70);
  EXPECT_EQ(keeper.moves(), 1U);

  first.ask(60);
  keeper.look();
  ASSERT_TRUE(second.ordered());
  second.move_out();
  keeper.look();
  ASSERT_TRUE(first.granted());
  first.come_back();
  keeper.look();
  EXPECT_EQ(first.page().memory_granted.load(), 60U);
}

TEST_F(ResidenceKeeperTest, SaysWhatOfTheHostsMemoryIsTakenBeforeItIs) {
  std::vector<std::uint64_t> told;
  keeper.on_host_bytes([&] {
    told.push_back(keeper.host_bytes());
    EXPECT_FALSE(first.ordered());
  });
  fill();
  EXPECT_EQ(keeper.host_bytes(), 0U);
  second.ask(70);
  keeper.look();
  ASSERT_TRUE(first.ordered());
  // It cannot obey now: nothing was taken.
  first.page().memory_excused.store(first.page().memory_order.load());
  keeper.look();
  EXPECT_EQ(told, (std::vector<std::uint64_t>{60, 0}));
}

TEST_F(ResidenceKeeperTest, TheHostsMemoryIsTakenUntilItsClientIsGone) {
  std::vector<std::uint64_t> told;
  keeper.on_host_bytes([&] { told.push_back(keeper.host_bytes()); });
  exchange();
  first.ask(60);
  keeper.look();
  second.move_out();
  keeper.look();
  first.come_back();
  keeper.look();
  EXPECT_EQ(keeper.host_bytes(), 130U) << "what came back keeps it for the next time";
  keeper.remove(2);
  keeper.remove(1);
  EXPECT_EQ(told, (std::vector<std::uint64_t>{60, 130, 60, 0}));
}

TEST_F(ResidenceKeeperTest, WhatLeavesIsGivenAtOnceToWhoComesBack) {
  fill();
  second.ask(60);
  keeper.look();
  first.move_out();
  keeper.look();
  second.take(60);
  first.ask(60);
  keeper.look();
  ASSERT_TRUE(second.ordered());
  EXPECT_FALSE(first.granted());
  EXPECT_EQ(first.page().memory_granted.load(), 40U) << "what is free already";
  second.move_part(20);
  keeper.look();
  EXPECT_TRUE(first.granted());
  EXPECT_EQ(first.page().memory_granted.load(), 60U) << "and what has become free";
  EXPECT_TRUE(second.ordered());
  second.move_out();
  first.come_back();
  keeper.look();
  EXPECT_EQ(keeper.moves(), 2U);
  EXPECT_EQ(first.page().memory_keep.load(), 1U) << "the host has room for both";
}

TEST_F(ResidenceKeeperTest, GivesMoreThanAskedForAndTakesItBack) {
  first.ask(10);
  keeper.look();
  EXPECT_EQ(first.page().memory_granted.load(), 16U);
  first.take(10);
  second.ask(88);
  keeper.look();
  EXPECT_TRUE(second.granted());
  EXPECT_EQ(first.page().memory_granted.load(), 10U);
}

TEST_F(ResidenceKeeperTest, WhoCannotObeyIsAskedAgainLater) {
  fill();
  second.ask(70);
  keeper.look();
  ASSERT_TRUE(first.ordered());
  first.page().memory_excused.store(first.page().memory_order.load());
  keeper.look();
  EXPECT_FALSE(first.ordered());
  const std::uint64_t until = now_ns() + std::uint64_t{2'000'000'000};
  while (!first.ordered() && now_ns() < until) loop.run_once(std::chrono::milliseconds(20));
  EXPECT_TRUE(first.ordered()) << "the keeper looks by itself while somebody waits";
}

TEST_F(ResidenceKeeperTest, WhatALeavingClientHeldIsFree) {
  fill();
  second.ask(70);
  keeper.look();
  keeper.remove(1);
  EXPECT_TRUE(second.granted());
}

TEST_F(ResidenceKeeperTest, ClaimsAreBoundedByGrants) {
  first.claim(UINT64_MAX);  // without having asked
  first.page().memory_fixed.store(UINT64_MAX);
  first.page().memory_moved.store(UINT64_MAX);
  second.ask(90);
  keeper.look();
  EXPECT_TRUE(second.granted());
  second.take(90);
  EXPECT_LE(first.page().memory_most.load(), 100U);
  first.ask(UINT64_MAX);
  keeper.look();
  EXPECT_TRUE(first.refused());
  first.page().memory_out.store(1);  // it never was told to
  first.page().memory_obeyed.store(77);
  keeper.look();
  EXPECT_TRUE(second.page().memory_granted.load() >= 90U);
}

TEST_F(ResidenceKeeperTest, MemoryOfClientsThatCannotBeMovedCounts) {
  PageWriter fixed;
  fixed.page().memory_movable.store(0);
  fixed.page().memory_used.store(50);
  keeper.add(3, 1, fixed.gate);
  first.ask(60);
  keeper.look();
  EXPECT_TRUE(first.refused());
  EXPECT_EQ(first.page().memory_most.load(), 50U);
}

TEST_F(ResidenceKeeperTest, AShortDeviceIsTriedAgainOnceSomebodyHasMadeRoom) {
  fill();
  second.ask(40);
  keeper.look();
  ASSERT_TRUE(second.granted());
  second.ask(40, true);
  keeper.look();
  ASSERT_FALSE(second.granted());
  ASSERT_TRUE(first.ordered());
  first.move_out();
  keeper.look();
  EXPECT_TRUE(second.granted());
}

TEST_F(ResidenceKeeperTest, AnotherVgpudGoesOnWhereThisOneStopped) {
  exchange();
  // The next one knows nothing but the pages.
  ResidenceKeeper next{loop, keeper_options()};
  next.set_device(100, 0, [] { return 3U; });
  first.ask(60);
  next.add(1, 1, first.gate);
  next.add(2, 1, second.gate);
  EXPECT_FALSE(first.granted()) << "nothing is answered before all are known";
  next.open();
  EXPECT_FALSE(first.granted());
  ASSERT_TRUE(second.ordered());
  second.move_out();
  next.look();
  EXPECT_TRUE(first.granted());
}

}  // namespace
}  // namespace vgpu::daemon
