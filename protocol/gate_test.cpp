#include "protocol/gate.hpp"

#include <gtest/gtest.h>

namespace vgpu {
namespace {

TEST(Gate, BothSidesSeeOnePage) {
  UniqueFd fd;
  auto broker = GateMapping::create(fd);
  ASSERT_TRUE(broker) << broker.error();
  auto worker = GateMapping::attach(fd.get());
  ASSERT_TRUE(worker);
  EXPECT_EQ((*worker)->page().allowance_ns.load(), no_limit_ns);
  (*worker)->page().launches.store(5);
  EXPECT_EQ((*broker)->page().launches.load(), 5u);
}

TEST(Gate, EachDeviceHasAPageOfItsOwn) {
  UniqueFd fd;
  auto broker = GateMapping::create(fd);
  ASSERT_TRUE(broker) << broker.error();
  auto worker = GateMapping::attach(fd.get());
  ASSERT_TRUE(worker);
  for (std::size_t i = 0; i < most_client_devices; ++i) {
    EXPECT_EQ((*worker)->page(i).allowance_ns.load(), no_limit_ns);
    (*worker)->page(i).launches.store(i + 1);
    (*worker)->page(i).calls[gate_call_slots - 1].store(i + 1);
  }
  for (std::size_t i = 0; i < most_client_devices; ++i) {
    EXPECT_EQ((*broker)->page(i).launches.load(), i + 1);
    EXPECT_EQ((*broker)->page(i).calls[gate_call_slots - 1].load(), i + 1);
  }
  const std::shared_ptr<GateMapping> shared = std::move(*broker);
  const auto page = GateMapping::page_of(shared, 2);
  EXPECT_EQ(page->launches.load(), 3U);
}

TEST(Gate, LatencyBucketsGrowAndHoldTheirValues) {
  std::size_t last = 0;
  for (std::uint64_t ns = 1; ns < 1'000'000'000'000; ns += ns / 16 + 1) {
    const std::size_t bucket = latency_bucket(ns);
    EXPECT_GE(bucket, last);
    EXPECT_LT(bucket, latency_buckets);
    if (ns >= 8 && bucket + 1 < latency_buckets) {
      EXPECT_GT(latency_bucket_end_ns(bucket), ns);
      EXPECT_LE(latency_bucket_end_ns(bucket), ns + ns / 4 + 1);
    }
    last = bucket;
  }
}

TEST(Gate, PercentilesComeFromTheHistogram) {
  UniqueFd fd;
  auto gate = GateMapping::create(fd);
  ASSERT_TRUE(gate);
  GatePage& page = (*gate)->page();
  EXPECT_EQ(percentile_ns(read_counts(page.latency), 0.5), 0u);
  for (int i = 0; i < 98; ++i) page.latency[latency_bucket(5'000)].fetch_add(1);
  for (int i = 0; i < 2; ++i) page.latency[latency_bucket(1'000'000)].fetch_add(1);
  EXPECT_NEAR(static_cast<double>(percentile_ns(read_counts(page.latency), 0.5)), 5'000, 1'250);
  EXPECT_NEAR(static_cast<double>(percentile_ns(read_counts(page.latency), 0.99)), 1'000'000, 250'000);
}

}  // namespace
}  // namespace vgpu
