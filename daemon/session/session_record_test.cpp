#include "daemon/session/session_record.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace vgpu::daemon {
namespace {

SessionRecord sample() {
  SessionRecord record;
  record.session = 42;
  record.device = "gpu0";
  record.further = {"gpu1", "gpu3"};
  record.identity = {7,      1000,          100,         {100, 44}, "/opt/\xff\xfe/prog",
                     "prog", "/user.slice", "a.service", {3, 2}};
  record.client_class.name = "batch";
  record.client_class.weight = 25;
  record.client_class.memory_quota = 1U << 30U;
  record.client_class.devices = 3;
  record.adjustments = {"gold", {{"weight", "5"}}, {{"memory_quota", "1MiB"}}, true, false};
  record.since_ns = 123456789;
  record.welcomed = true;
  set_text(record.report.name, "A GPU");
  record.report.total_memory = 1ULL << 36U;
  return record;
}

TEST(SessionRecord, ComesBackWhole) {
  const auto back = decode_session(encode(sample()));
  ASSERT_TRUE(back) << back.error();
  EXPECT_EQ(back->session, 42U);
  EXPECT_EQ(back->device, "gpu0");
  EXPECT_EQ(back->further, (std::vector<std::string>{"gpu1", "gpu3"}));
  EXPECT_EQ(back->identity.executable, "/opt/\xff\xfe/prog") << "paths may hold any bytes";
  EXPECT_EQ(back->identity.groups, (std::vector<gid_t>{100, 44}));
  EXPECT_EQ(back->identity.ancestors, (std::vector<pid_t>{3, 2}));
  EXPECT_EQ(back->identity.unit, "a.service");
  EXPECT_EQ(back->client_class.name, "batch");
  EXPECT_EQ(back->client_class.weight, 25U);
  EXPECT_EQ(back->client_class.memory_quota, 1U << 30U);
  EXPECT_EQ(back->client_class.devices, 3U);
  EXPECT_EQ(back->adjustments.class_name, "gold");
  EXPECT_EQ(back->adjustments.by_administrator, (Settings{{"weight", "5"}}));
  EXPECT_EQ(back->adjustments.by_owner, (Settings{{"memory_quota", "1MiB"}}));
  EXPECT_TRUE(back->adjustments.paused_by_administrator);
  EXPECT_FALSE(back->adjustments.paused_by_owner);
  EXPECT_EQ(back->since_ns, 123456789);
  EXPECT_TRUE(back->welcomed);
  EXPECT_STREQ(back->report.name, "A GPU");
  EXPECT_EQ(back->report.total_memory, 1ULL << 36U);
}

TEST(SessionRecord, NoQuotaStaysNone) {
  SessionRecord record = sample();
  record.client_class.memory_quota.reset();
  EXPECT_FALSE(decode_session(encode(record))->client_class.memory_quota);
}

TEST(SessionRecord, CutOrChangedBytesAreRefusedWithASentence) {
  const auto bytes = encode(sample());
  for (std::size_t size = 0; size < bytes.size(); size += 7) {
    EXPECT_FALSE(decode_session(std::span(bytes).first(size))) << size;
  }
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    auto changed = bytes;
    changed[at] ^= 0xFFU;
    const auto back = decode_session(changed);
    EXPECT_TRUE(back || !back.error().empty()) << at;
  }
}

TEST(SessionRecord, AnotherVersionIsRefused) {
  auto value = nlohmann::json::from_cbor(encode(sample()));
  value["protocol"] = protocol_hash() + 1;
  const auto back = decode_session(nlohmann::json::to_cbor(value));
  ASSERT_FALSE(back);
  EXPECT_NE(back.error().find("another version"), std::string::npos);
}

TEST(BrokerRecord, ComesBackWhole) {
  using Time = QuarantineEntry::TimePoint;
  BrokerRecord record{5, {9, 8, 7, 6, 5, 4, 3, 2}, {}, {}, {}};
  record.rejections.push_back(
      {1000, "batch", RejectionReason::quarantine, 7, "a\xff", "", Time(std::chrono::hours(4))});
  record.quarantined.push_back({{1000, "/opt/\xff"}, "by hand", 3, Time(std::chrono::hours(1)), {}});
  record.quarantined.push_back(
      {{1001, ""}, "faults", 1, Time(std::chrono::hours(2)), Time(std::chrono::hours(3))});
  DeviceRecord device{"gpu0", {}, 11, 12};
  device.past.device_ns = 13;
  device.past.bytes_moved_in = 14;
  device.past.latency.back() = 15;
  record.devices.push_back(device);
  const auto back = decode_broker(encode(record));
  ASSERT_TRUE(back) << back.error();
  EXPECT_EQ(back->next_session, 5U);
  ASSERT_EQ(back->devices.size(), 1U);
  EXPECT_EQ(back->devices[0].name, "gpu0");
  EXPECT_EQ(back->devices[0].switches, 11U);
  EXPECT_EQ(back->devices[0].charged_ns, 12U);
  EXPECT_EQ(back->devices[0].past.device_ns, 13U);
  EXPECT_EQ(back->devices[0].past.bytes_moved_in, 14U);
  EXPECT_EQ(back->devices[0].past.latency, device.past.latency);
  EXPECT_EQ(back->counters, record.counters);
  ASSERT_EQ(back->quarantined.size(), 2U);
  EXPECT_EQ(back->quarantined[0].subject, record.quarantined[0].subject);
  EXPECT_EQ(back->quarantined[0].why, "by hand");
  EXPECT_EQ(back->quarantined[0].faults, 3U);
  EXPECT_EQ(back->quarantined[0].since, record.quarantined[0].since);
  EXPECT_FALSE(back->quarantined[0].until);
  EXPECT_EQ(back->quarantined[1].until, record.quarantined[1].until);
  ASSERT_EQ(back->rejections.size(), 1U);
  const Rejection& rejection = back->rejections[0];
  EXPECT_EQ(rejection.uid, 1000U);
  EXPECT_EQ(rejection.client_class, "batch");
  EXPECT_EQ(rejection.reason, RejectionReason::quarantine);
  EXPECT_EQ(rejection.count, 7U);
  EXPECT_EQ(rejection.program, "a\xff");
  EXPECT_EQ(rejection.last, record.rejections[0].last);
}

}  // namespace
}  // namespace vgpu::daemon
