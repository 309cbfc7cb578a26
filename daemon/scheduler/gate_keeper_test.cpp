// The keeper over real gate pages, which the tests write as workers would.
#include "daemon/scheduler/gate_keeper.hpp"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "daemon/base/event_loop.hpp"
#include "daemon/scheduler/fair_queue.hpp"
#include "daemon/scheduler/policies.hpp"
#include "protocol/futex.hpp"

namespace vgpu::daemon {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kMs = 1'000'000;

struct FakeWorker {
  FakeWorker() : attention(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    UniqueFd fd;
    auto made = GateMapping::create(fd);
    EXPECT_TRUE(made);
    gate = std::move(*made);
    page().metered.store(1);
  }
  GatePage& page() const { return gate->page(); }
  // Uses up to a millisecond of what it was granted; how much.
  std::uint64_t use() const {
    const std::uint64_t used = page().consumed_ns.load();
    const std::uint64_t more = std::min(kMs, page().allowance_ns.load() - used);
    page().blocked.store(more == 0 ? 1 : 0);
    page().consumed_ns.store(used + more);
    return more;
  }
  UniqueFd attention;
  std::shared_ptr<GateMapping> gate;
};

class Keeper : public testing::Test {
 protected:
  void SetUp() override {
    for (ClientId id : {ClientId{1}, ClientId{2}}) {
      FakeWorker& worker = id == 1 ? first : second;
      worker.page().backlogged.store(1);
      worker.page().in_flight.store(1);
      keeper.add(id, GateTerms{}, GateMapping::page_of(worker.gate), worker.attention.get());
    }
  }
  EventLoop loop;
  GateKeeper keeper{loop, std::make_unique<FairQueue>(2 * kMs, 20 * kMs)};
  FakeWorker first, second;
};

TEST_F(Keeper, ClientWhoseWorkWaitsForSomethingElseHoldsNobodyBack) {
  std::uint64_t used = 0;
  for (int i = 0; i < 300; ++i) {
    keeper.tick();
    used += second.use();
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_GT(used, 150 * kMs) << "of 300 ms in which the device was its own but for the first 50";
  // It comes back, and has its half.
  std::uint64_t other = 0;
  used = 0;
  for (int i = 0; i < 200; ++i) {
    keeper.tick();
    other += first.use();
    used += second.use();
  }
  EXPECT_GT(other, used / 2);
  EXPECT_GT(used, other / 2);
}

TEST_F(Keeper, OneDescriptorTellsTheKeepersOfAllOfAClientsDevices) {
  GateKeeper other{loop, std::make_unique<FairQueue>(2 * kMs, 20 * kMs)};
  const auto page = GateMapping::page_of(first.gate, 1);
  page->metered.store(1);
  other.add(1, GateTerms{}, page, -1);
  keeper.on_attention(1, [&] { other.tick(); });
  page->consumed_ns.store(5 * kMs);
  EXPECT_EQ(other.figures(1).charged_ns, 0U);
  const std::uint64_t one = 1;
  ASSERT_EQ(write(first.attention.get(), &one, sizeof one), 8);
  loop.after(milliseconds(20), [this] { loop.stop(); });
  loop.run();
  EXPECT_EQ(other.figures(1).charged_ns, 5 * kMs);
  EXPECT_EQ(keeper.figures(1).charged_ns, 0U) << "each device is accounted for by itself";
  other.open_all();
  EXPECT_EQ(page->allowance_ns.load(), no_limit_ns);
}

TEST_F(Keeper, TimeOfALoneClientIsTheDevicesWithoutALookAtItsPage) {
  keeper.remove(2);
  const std::uint64_t before = keeper.charged_ns();
  first.page().consumed_ns.fetch_add(5 * kMs);
  EXPECT_EQ(keeper.charged_ns(), before + 5 * kMs);
  first.page().consumed_ns.fetch_add(2 * kMs);
  keeper.remove(1);
  EXPECT_EQ(keeper.charged_ns(), before + 7 * kMs) << "also when it has ended";
}

// Workers that bring their counters up to date at the end of each command only, in different milliseconds:
// what each is charged must not depend on which of them a look finds together.
TEST_F(Keeper, ClockedTimeIsChargedAsItPasses) {
  for (FakeWorker* const worker : {&first, &second}) {
    worker->page().metered.store(0);
    worker->page().measured_ns.store(now_ns());
  }
  std::uint64_t looked = 0;
  for (int i = 1; i <= 60; ++i) {
    std::this_thread::sleep_for(milliseconds(1));
    keeper.tick();
    const std::uint64_t one = keeper.figures(1).charged_ns;
    const std::uint64_t other = keeper.figures(2).charged_ns;
    EXPECT_NEAR(static_cast<double>(one), static_cast<double>(other), kMs) << "at look " << i;
    looked = one;
    FakeWorker* const ends = i % 3 == 0 ? &first : i % 4 == 0 ? &second : nullptr;
    if (ends == nullptr) continue;
    const std::uint64_t now = now_ns();
    ends->page().consumed_ns.fetch_add(now - ends->page().measured_ns.load());
    ends->page().measured_ns.store(now);
  }
  EXPECT_GT(looked, 25 * kMs);
  // Who has nothing under way is charged nothing.
  first.page().measured_ns.store(0);
  keeper.tick();
  const std::uint64_t before = keeper.figures(1).charged_ns;
  std::this_thread::sleep_for(milliseconds(5));
  keeper.tick();
  EXPECT_EQ(keeper.figures(1).charged_ns, before);
}

TEST_F(Keeper, ClientThatWaitsAtTheGateKeepsItsClaim) {
  // Both use what they are granted; one that is held at the gate for long has not stalled.
  std::uint64_t one = 0;
  std::uint64_t other = 0;
  for (int i = 0; i < 200; ++i) {
    keeper.tick();
    one += first.use();
    if (i % 4 == 0) other += second.use();
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_LT(one, other + 20 * kMs);
}

// By the times that the pages say, the first client has come every 10 ms and worked for 2; now it is in its
// pause. The second, of a lower priority, has an endless queue of kernels of 100 us.
TEST(KeeperOfPriorities, KeepsTheDeviceFreeForWhoIsExpected) {
  bool held = false;
  bool too_early = false;
  std::uint64_t allowance = 0;
  for (int attempt = 0; attempt < 20 && !held; ++attempt) {  // the loop may be kept from its CPU
    EventLoop loop;
    GateKeeper keeper(loop, make_policy(PolicyKind::fair, {.anticipate = true}));
    FakeWorker high;
    FakeWorker low;
    GateTerms terms;
    terms.terms.level = 0;
    keeper.add(1, terms, GateMapping::page_of(high.gate), high.attention.get());
    terms.terms.level = 2;
    keeper.add(2, terms, GateMapping::page_of(low.gate), low.attention.get());
    low.page().backlogged.store(1);
    low.page().in_flight.store(1);
    low.page().predicted_ns.store(100'000);
    const std::uint64_t last = now_ns() - 4 * kMs;
    for (std::uint64_t ago = 30; ago-- > 0;) {
      high.page().came_ns.store(last - ago * 10 * kMs);
      high.page().backlogged.store(1);
      keeper.tick();
      high.page().ended_ns.store(last - ago * 10 * kMs + 2 * kMs);
      high.page().backlogged.store(0);
      keeper.tick();
    }
    const std::uint64_t expected = last + 10 * kMs;
    keeper.on_look([&] {
      if (now_ns() < last + 3 * kMs) return;  // lingering
      if (low.page().allowance_ns.load() != 0) return;
      held = true;
      too_early = too_early || now_ns() < expected - 200'000;
      EXPECT_EQ(low.page().others_wait.load(), 1U) << "it tells when nothing of its is in flight";
    });
    loop.after(milliseconds(10), [&loop] { loop.stop(); });
    loop.run();
    allowance = low.page().allowance_ns.load();
  }
  EXPECT_TRUE(held);
  EXPECT_FALSE(too_early);
  EXPECT_GT(allowance, 0U) << "it did not come: nobody waits any longer";
}

}  // namespace
}  // namespace vgpu::daemon
