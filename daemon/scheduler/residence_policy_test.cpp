// Whom the policy moves out and whom it refuses, and what comes of it over minutes on a clock of the test's.
#include "daemon/scheduler/residence_policy.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

namespace vgpu::daemon {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kSecond = 1000 * kMs;

ResidenceOptions options(std::uint64_t host_limit = 1000) {
  ResidenceOptions result;
  result.host_limit = host_limit;
  result.minimum_residence_ns = kSecond;
  result.idle_after_ns = 100 * kMs;
  return result;
}

// On the device with so much that can be moved, busy since it came.
Tenant resident(ClientId client, std::uint64_t bytes, std::uint64_t since, std::uint64_t busy) {
  Tenant tenant;
  tenant.client = client;
  tenant.granted = tenant.movable = bytes;
  tenant.since_ns = since;
  tenant.busy_ns = busy;
  return tenant;
}

Tenant asking(ClientId client, std::uint64_t wanted, std::uint64_t since) {
  Tenant tenant;
  tenant.client = client;
  tenant.asks = true;
  tenant.wanted = wanted;
  tenant.asked_ns = since;
  return tenant;
}

std::vector<ClientId> clients(const std::vector<ResidencePlan::Granted>& grants) {
  std::vector<ClientId> result;
  result.reserve(grants.size());
  for (const auto& grant : grants) result.push_back(grant.client);
  return result;
}

using Ids = std::vector<ClientId>;
constexpr std::uint64_t kNow = 100 * kSecond;

TEST(Residence, WhatFitsIsGrantedAtOnce) {
  const std::vector<Tenant> all{resident(1, 60, 0, kNow), asking(2, 40, kNow)};
  const ResidencePlan plan = plan_residence(kNow, 100, options(), all);
  ASSERT_EQ(clients(plan.grants), Ids{2});
  EXPECT_EQ(plan.grants[0].bytes, 40U);
  EXPECT_TRUE(plan.orders.empty());
}

TEST(Residence, IdleOnesAreMovedFirstAndNoMoreOfThemThanNeeded) {
  const std::vector<Tenant> all{resident(1, 40, 0, kNow), resident(2, 30, kNow - kMs, kNow - 150 * kMs),
                                resident(3, 30, kNow - kMs, kNow - 200 * kMs), asking(4, 30, kNow)};
  const ResidencePlan plan = plan_residence(kNow, 100, options(), all);
  EXPECT_EQ(plan.orders, Ids{3}) << "longest idle, in spite of its short stay";
  EXPECT_TRUE(plan.grants.empty());
}

TEST(Residence, BusyOnesStayForTheMinimumResidence) {
  std::vector<Tenant> all{resident(1, 60, kNow - 900 * kMs, kNow), asking(2, 60, kNow)};
  ResidencePlan plan = plan_residence(kNow, 100, options(), all);
  EXPECT_TRUE(plan.orders.empty());
  EXPECT_EQ(plan.look_again_ns, 100 * kMs) << "then its stay, or its pause, will have been long enough";
  plan = plan_residence(kNow + 100 * kMs, 100, options(), all);
  EXPECT_EQ(plan.orders, Ids{1});
}

TEST(Residence, SlowMovesLengthenTheStayAndThePause) {
  std::vector<Tenant> all{resident(1, 60, kNow - 2 * kSecond, kNow), asking(2, 60, kNow)};
  all[0].move_ns = kSecond;
  EXPECT_TRUE(plan_residence(kNow, 100, options(), all).orders.empty());
  all[0].since_ns = kNow - 4 * kSecond;
  EXPECT_EQ(plan_residence(kNow, 100, options(), all).orders, Ids{1});
  // And what counts as a pause.
  all[0].since_ns = kNow;
  all[0].busy_ns = kNow - 900 * kMs;
  EXPECT_TRUE(plan_residence(kNow, 100, options(), all).orders.empty());
  all[0].busy_ns = kNow - kSecond;
  EXPECT_EQ(plan_residence(kNow, 100, options(), all).orders, Ids{1});
}

TEST(Residence, LowerClassesGoFirstAndHigherOnesOnlyForWhoHasWaitedLong) {
  std::vector<Tenant> all{resident(1, 50, kNow - 9 * kSecond, kNow),
                          resident(2, 50, kNow - 3 * kSecond, kNow), asking(3, 50, kNow)};
  all[0].level = 0;
  all[1].level = 2;
  EXPECT_EQ(plan_residence(kNow, 100, options(), all).orders, Ids{2});
  all[1].level = 0;
  EXPECT_TRUE(plan_residence(kNow, 100, options(), all).orders.empty());
  all[2].asked_ns = kNow - 4 * kSecond;
  EXPECT_EQ(plan_residence(kNow, 100, options(), all).orders, Ids{1}) << "longest on the device";
}

TEST(Residence, NobodyIsMovedUnlessItIsEnough) {
  const std::vector<Tenant> all{resident(1, 50, 0, kNow), resident(2, 50, kNow - kMs, kNow),
                                asking(3, 80, kNow)};
  const ResidencePlan plan = plan_residence(kNow, 100, options(), all);
  EXPECT_TRUE(plan.orders.empty());
  EXPECT_EQ(plan.look_again_ns, 100 * kMs);
}

TEST(Residence, WhatIsOnItsWayOutIsNotAskedForTwice) {
  std::vector<Tenant> all{resident(1, 50, 0, kNow), resident(2, 50, 0, kNow), asking(3, 50, kNow)};
  all[0].ordered = true;
  EXPECT_TRUE(plan_residence(kNow, 100, options(), all).orders.empty());
}

TEST(Residence, WhoCouldNotObeyIsLeftAloneForAWhile) {
  std::vector<Tenant> all{resident(1, 60, 0, kNow), asking(2, 60, kNow)};
  all[0].not_before_ns = kNow + 50 * kMs;
  const ResidencePlan plan = plan_residence(kNow, 100, options(), all);
  EXPECT_TRUE(plan.orders.empty());
  EXPECT_EQ(plan.look_again_ns, 50 * kMs);
}

TEST(Residence, MoreThanTheDeviceIsRefused) {
  std::vector<Tenant> all{resident(1, 10, 0, kNow), asking(2, 101, kNow)};
  EXPECT_EQ(plan_residence(kNow, 100, options(), all).refusals, Ids{2});
  // What others hold and cannot be moved is not there either.
  all[0].fixed = 10;
  all[0].movable = 0;
  all[1].wanted = 91;
  EXPECT_EQ(plan_residence(kNow, 100, options(), all).refusals, Ids{2});
  EXPECT_EQ(most_residence(2, 100, options(), all), 90U);
}

TEST(Residence, BeyondTheDeviceTheHostMustHaveRoomForAllButTheSmallest) {
  std::vector<Tenant> all{resident(1, 60, 0, kNow), asking(2, 70, kNow)};
  EXPECT_EQ(plan_residence(kNow, 100, options(69), all).refusals, Ids{2});
  EXPECT_EQ(most_residence(2, 100, options(69), all), 69U);
  EXPECT_TRUE(plan_residence(kNow, 100, options(70), all).refusals.empty());
  EXPECT_EQ(most_residence(2, 100, options(59), all), 40U) << "the first could not leave: only what is free";
  all[1].wanted = 40;
  EXPECT_TRUE(plan_residence(kNow, 100, options(10), all).refusals.empty()) << "both fit: nothing is moved";
}

TEST(Residence, WhatCannotBeMovedMustLeaveRoomForEverybodyElse) {
  std::vector<Tenant> all{resident(1, 0, 0, kNow), asking(2, 50, kNow)};
  all[0].out = true;
  all[0].movable = 60;
  all[1].wanted_fixed = 50;
  EXPECT_EQ(plan_residence(kNow, 100, options(), all).refusals, Ids{2}) << "the first could never come back";
  EXPECT_EQ(most_fixed(2, 100, all), 40U);
  all[1].granted = 50;
  EXPECT_EQ(plan_residence(kNow, 100, options(), all).refusals, Ids{2})
      << "also when it had been granted so much";
  all[1].granted = 0;
  all[1].wanted_fixed = 40;
  EXPECT_EQ(clients(plan_residence(kNow, 100, options(), all).grants), Ids{2});
}

TEST(Residence, WhoIsOutIsNeverRefusedWhatItHas) {
  std::vector<Tenant> all{resident(1, 60, 0, kNow), asking(2, 60, kNow)};
  all[1].out = true;
  all[1].movable = 60;
  const ResidencePlan plan = plan_residence(kNow, 100, options(1), all);
  EXPECT_TRUE(plan.refusals.empty());
  EXPECT_EQ(plan.orders, Ids{1});
}

TEST(Residence, WhoComesBackGetsWhatBecomesFreeAndComesBeforeOthers) {
  std::vector<Tenant> all{resident(1, 60, 0, kNow), asking(2, 60, kNow), asking(3, 60, kNow)};
  all[1].out = all[2].out = true;
  all[1].movable = all[2].movable = 60;
  ResidencePlan plan = plan_residence(kNow, 100, options(), all);
  EXPECT_EQ(plan.orders, Ids{1});
  ASSERT_EQ(clients(plan.grants), Ids{2});
  EXPECT_EQ(plan.grants[0].bytes, 40U);
  EXPECT_FALSE(plan.grants[0].whole);
  // The first is on its way, half of it has left.
  all[0].ordered = true;
  all[0].granted = 30;
  all[1].granted = 40;
  all[1].arriving = true;
  all[2].level = 0;
  plan = plan_residence(kNow, 100, options(), all);
  ASSERT_EQ(clients(plan.grants), Ids{2}) << "in spite of the other's class";
  EXPECT_EQ(plan.grants[0].bytes, 60U);
  EXPECT_TRUE(plan.grants[0].whole);
}

TEST(Residence, AShortDeviceMovesSomebodyAlthoughTheNumbersSayItFits) {
  std::vector<Tenant> all{resident(1, 40, 0, kNow), asking(2, 40, kNow)};
  all[1].granted = 40;
  all[1].short_of = true;
  EXPECT_EQ(plan_residence(kNow, 100, options(), all).orders, Ids{1});
  all.erase(all.begin());
  EXPECT_EQ(plan_residence(kNow, 100, options(), all).refusals, Ids{2}) << "there is nobody to move";
}

TEST(Residence, WhoFittedBeforeIsLetBackWhenNobodyCouldMakeRoom) {
  std::vector<Tenant> all{resident(1, 0, 0, kNow), asking(2, 60, kNow)};
  all[0].granted = all[0].fixed = 10;
  all[1].out = true;
  all[1].movable = 60;
  EXPECT_EQ(clients(plan_residence(kNow, 65, options(), all).grants), Ids{2}) << "the device got smaller";
  all[1].movable = 50;
  EXPECT_EQ(plan_residence(kNow, 65, options(), all).refusals, Ids{2}) << "this is more than it had";
}

// Clients on a device over minutes: each works for a while, pauses for a while, and needs its memory to work.
class Simulation {
 public:
  struct Client {
    Tenant tenant;
    std::uint64_t bytes = 0;
    std::uint64_t work_ns = 0;  // between pauses; 0: never pauses
    std::uint64_t pause_ns = 0;
    std::uint64_t moving_until = 0;
    std::uint64_t phase_ns = 0;  // work done since the last pause
    std::uint64_t paused_until = 0;
    std::uint64_t worked_ns = 0;
    std::uint64_t arrived_ns = 0;
    std::uint64_t longest_wait = 0;
    unsigned moves = 0;
  };
  static constexpr std::uint64_t kStep = 5 * kMs;
  static constexpr std::uint64_t kMove = 20 * kMs;

  Simulation(std::uint64_t capacity, const ResidenceOptions& options)
      : capacity_(capacity), options_(options) {}

  Client& add(std::uint64_t bytes, std::uint64_t work_ns = 0, std::uint64_t pause_ns = 0,
              unsigned level = 1) {
    Client client;
    client.bytes = bytes;
    client.work_ns = work_ns;
    client.pause_ns = pause_ns;
    client.tenant.client = clients_.size() + 1;
    client.tenant.level = level;
    return clients_.emplace(client.tenant.client, client).first->second;
  }

  void run(std::uint64_t for_ns) {
    for (const std::uint64_t end = now_ + for_ns; now_ < end; now_ += kStep) {
      for (auto& [id, client] : clients_) step(client);
      decide();
    }
  }

  Client& client(ClientId id) { return clients_.at(id); }

 private:
  bool wants_to_work(const Client& client) const { return now_ >= client.paused_until; }

  void step(Client& client) {
    Tenant& tenant = client.tenant;
    if (tenant.ordered && now_ >= client.moving_until) {
      tenant.ordered = false;
      tenant.out = true;
      tenant.granted = 0;
    }
    if (tenant.arriving && now_ >= client.moving_until) {
      tenant.arriving = tenant.out = false;
      tenant.since_ns = now_;
      client.arrived_ns = now_;
    }
    if (!wants_to_work(client) || tenant.ordered) return;
    if (tenant.arriving) {
      client.longest_wait = std::max(client.longest_wait, now_ - tenant.asked_ns);
      return;
    }
    if (tenant.granted < client.bytes) {
      if (!tenant.asks) tenant.asked_ns = now_;
      tenant.asks = true;
      tenant.wanted = client.bytes;
      client.longest_wait = std::max(client.longest_wait, now_ - tenant.asked_ns);
      return;
    }
    tenant.busy_ns = now_;
    client.worked_ns += kStep;
    client.phase_ns += kStep;
    if (client.work_ns != 0 && client.phase_ns >= client.work_ns) {
      client.phase_ns = 0;
      client.paused_until = now_ + client.pause_ns;
    }
  }

  void decide() {
    std::vector<Tenant> all;
    std::uint64_t granted = 0;
    for (const auto& [id, client] : clients_) {
      all.push_back(client.tenant);
      granted += client.tenant.granted;
    }
    ASSERT_LE(granted, capacity_);
    const ResidencePlan plan = plan_residence(now_, capacity_, options_, all);
    for (const auto& grant : plan.grants) {
      Client& one = clients_.at(grant.client);
      one.tenant.granted = grant.bytes;
      if (!grant.whole) {
        EXPECT_TRUE(one.tenant.out);
        one.tenant.arriving = true;
        one.moving_until = UINT64_MAX;
        continue;
      }
      one.tenant.asks = false;
      one.tenant.movable = grant.bytes;
      if (one.tenant.out) {
        one.tenant.arriving = true;
        one.moving_until = now_ + kMove;
      } else {
        one.tenant.since_ns = one.arrived_ns = now_;
      }
    }
    EXPECT_TRUE(plan.refusals.empty());
    for (const ClientId id : plan.orders) {
      Client& one = clients_.at(id);
      EXPECT_FALSE(one.tenant.ordered || one.tenant.out);
      const bool stayed = now_ - one.arrived_ns >= options_.minimum_residence_ns;
      EXPECT_TRUE(stayed || now_ - one.tenant.busy_ns >= options_.idle_after_ns) << "moved out too early";
      one.tenant.ordered = true;
      one.moving_until = now_ + kMove;
      ++one.moves;
    }
  }

  const std::uint64_t capacity_;
  const ResidenceOptions options_;
  std::map<ClientId, Client> clients_;
  std::uint64_t now_ = kSecond;
};

TEST(Residence, ThreeThatEachNeedMostOfTheDeviceTakeTurns) {
  Simulation simulation(100, options());
  for (int i = 0; i < 3; ++i) simulation.add(60);
  simulation.run(120 * kSecond);
  for (ClientId id = 1; id <= 3; ++id) {
    const auto& client = simulation.client(id);
    EXPECT_NEAR(static_cast<double>(client.worked_ns) / 1e9, 39, 2) << "a third, less what moves take";
    EXPECT_LE(client.moves, 40U);
    EXPECT_LT(client.longest_wait, 3 * kSecond);
  }
}

TEST(Residence, WhoPausesLeavesTheDeviceToOthersAndComesBackSoon) {
  Simulation simulation(100, options());
  simulation.add(60);
  simulation.add(60, 50 * kMs, 950 * kMs);  // a server with a request a second
  simulation.run(60 * kSecond);
  EXPECT_GT(simulation.client(1).worked_ns, 25 * kSecond);
  EXPECT_GT(simulation.client(2).worked_ns, kSecond);
  EXPECT_LE(simulation.client(2).longest_wait, kSecond + 100 * kMs);
}

TEST(Residence, NobodyStarvesWhateverComes) {
  std::mt19937 random(7);
  for (int pattern = 0; pattern < 60; ++pattern) {
    Simulation simulation(100, options());
    const auto some = [&](unsigned from, unsigned to) {
      return std::uniform_int_distribution<unsigned>(from, to)(random);
    };
    const unsigned count = some(2, 6);
    for (unsigned i = 0; i < count; ++i) {
      const bool pauses = some(0, 1) == 1;
      simulation.add(some(5, 100), pauses ? some(5, 500) * kMs : 0, pauses ? some(5, 3000) * kMs : 0,
                     some(0, 2));
    }
    simulation.run(60 * kSecond);
    for (ClientId id = 1; id <= count; ++id) {
      EXPECT_GT(simulation.client(id).worked_ns, 0U) << "client " << id << " of pattern " << pattern;
      EXPECT_LT(simulation.client(id).longest_wait, 40 * kSecond)
          << "client " << id << " of pattern " << pattern;
    }
  }
}

}  // namespace
}  // namespace vgpu::daemon
