// What is learnt from pauses of every sort.
#include "daemon/scheduler/arrivals.hpp"

#include <gtest/gtest.h>

#include <random>

namespace vgpu::daemon::arrivals {
namespace {

constexpr std::uint64_t kUs = 1000;
constexpr std::uint64_t kMs = 1000 * kUs;

// A client that works for a time and pauses.
struct Client {
  Arrivals arrivals{Arrivals::Rules{}};
  std::uint64_t now = 100 * kMs;
  std::uint64_t ended = 0;

  void visit(std::uint64_t work, std::uint64_t pause) {
    const std::uint64_t came = now;
    arrivals.note(came, ended, true);
    now += work;
    ended = now;
    arrivals.note(came, ended, false);
    now += pause;
  }
};

TEST(Arrivals, NothingIsExpectedBeforeEnoughIsKnown) {
  Client client;
  for (std::size_t i = 0; i < SpanRange::kLeast; ++i) {
    client.visit(kMs, 5 * kMs);
    EXPECT_FALSE(client.arrivals.next()) << i;
  }
  client.visit(kMs, 5 * kMs);
  ASSERT_TRUE(client.arrivals.next());
  EXPECT_EQ(client.arrivals.next()->early_ns, client.now);
  EXPECT_EQ(client.arrivals.next()->late_ns, client.now);
  client.arrivals.note(client.now, client.ended, true);
  EXPECT_FALSE(client.arrivals.next()) << "it is here";
}

TEST(Arrivals, LieBetweenTheBoundsForRegularPausesWithJitter) {
  std::mt19937 random(1);
  std::exponential_distribution<double> tail(1.0 / 50e3);
  Client client;
  unsigned expected = 0;
  unsigned within = 0;
  for (int i = 0; i < 5000; ++i) {
    client.visit(kMs + random() % (100 * kUs), 5 * kMs + static_cast<std::uint64_t>(tail(random)));
    const auto next = client.arrivals.next();
    if (!next) continue;
    ++expected;
    EXPECT_LE(next->late_ns - next->early_ns, 900 * kUs);
    if (client.now + 20 * kUs >= next->early_ns && client.now <= next->late_ns + 20 * kUs) ++within;
  }
  EXPECT_GT(expected, 4900U);
  EXPECT_GT(within, expected * 97 / 100);
}

// A clock of its own brings it, however long it works.
TEST(Arrivals, PeriodIsLearntWhereThePauseVaries) {
  std::mt19937 random(1);
  Client client;
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t work = kMs + random() % (3 * kMs);
    client.visit(work, 10 * kMs - work);
  }
  ASSERT_TRUE(client.arrivals.next());
  EXPECT_EQ(client.arrivals.next()->early_ns, client.now);
}

TEST(Arrivals, RandomOnesAreNotExpected) {
  std::mt19937 random(1);
  for (const double mean : {1e6, 5e6, 50e6}) {
    std::exponential_distribution<double> pause(1.0 / mean);
    Client client;
    for (int i = 0; i < 20'000; ++i) {
      client.visit(kMs, static_cast<std::uint64_t>(pause(random)));
      EXPECT_FALSE(client.arrivals.next()) << mean;
    }
  }
}

TEST(Arrivals, ShortPausesBelongToTheWork) {
  Client client;
  for (int i = 0; i < 40; ++i) {
    for (unsigned command = 0; command < 5; ++command) client.visit(100 * kUs, (20 + command * 50) * kUs);
    client.visit(100 * kUs, 5 * kMs);
  }
  ASSERT_TRUE(client.arrivals.next());
  EXPECT_EQ(client.arrivals.next()->early_ns, client.now);
}

TEST(Arrivals, NewPeriodIsLearntAndTheOldOneForgotten) {
  Client client;
  for (int i = 0; i < 40; ++i) client.visit(kMs, 5 * kMs);
  unsigned wrong = 0;
  for (int i = 0; i < 40; ++i) {
    client.visit(kMs, 8 * kMs);
    if (client.arrivals.next() && client.arrivals.next()->late_ns != client.now) ++wrong;
  }
  EXPECT_LE(wrong, 4U);
  ASSERT_TRUE(client.arrivals.next());
  EXPECT_EQ(client.arrivals.next()->early_ns, client.now);
}

TEST(Arrivals, OneThatWasMissedIsNotExpectedAgainInThatPause) {
  Client client;
  for (int i = 0; i < 40; ++i) client.visit(kMs, 5 * kMs);
  ASSERT_TRUE(client.arrivals.next());
  client.arrivals.missed();
  client.arrivals.note(client.now - 6 * kMs, client.ended, false);
  EXPECT_FALSE(client.arrivals.next());
  client.visit(kMs, 5 * kMs);
  EXPECT_TRUE(client.arrivals.next()) << "one failure says little";
  for (unsigned i = 0; i < 5; ++i) client.visit(kMs, (9 + 3 * i) * kMs);
  EXPECT_FALSE(client.arrivals.next()) << "five say that it is not regular";
}

TEST(Arrivals, EndThatWasSeenTooLateIsTakenFromTheLookBefore) {
  Client client;
  for (int i = 0; i < 40; ++i) {
    // The look comes when the first piece of the new work has ended already.
    client.arrivals.note(client.now, client.now + 10 * kUs, true);
    client.arrivals.note(client.now, client.now + kMs, false);
    client.now += 6 * kMs;
  }
  ASSERT_TRUE(client.arrivals.next());
  EXPECT_EQ(client.arrivals.next()->early_ns, client.now);
}

TEST(Arrivals, ClientThatSaysNothingOfItsTimesIsNotExpected) {
  Arrivals arrivals{Arrivals::Rules{}};
  for (int i = 0; i < 100; ++i) arrivals.note(0, 0, i % 2 == 0);
  EXPECT_FALSE(arrivals.next());
}

}  // namespace
}  // namespace vgpu::daemon::arrivals
