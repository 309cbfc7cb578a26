// Quarantine, placement, and what owners may lower.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "daemon/policy/lowering.hpp"
#include "daemon/policy/placing.hpp"
#include "daemon/policy/promises.hpp"
#include "daemon/policy/quarantine.hpp"
#include "protocol/visible_devices.hpp"

namespace vgpu::daemon {
namespace {

using namespace std::chrono_literals;

const Subject kProgram{1000, "/usr/bin/faulty"};
const Subject kOther{1001, "/usr/bin/faulty"};

struct QuarantineTest : testing::Test {
  Quarantine quarantine;
  Quarantine::TimePoint now{1000h};
};

TEST_F(QuarantineTest, BeginsWithTheFaultThatIsOneTooManyAndEndsByItself) {
  EXPECT_FALSE(quarantine.fault(kProgram, 3, 10min, "faults", now));
  EXPECT_FALSE(quarantine.fault(kProgram, 3, 10min, "faults", now));
  EXPECT_EQ(quarantine.find(kProgram, now), nullptr);
  EXPECT_TRUE(quarantine.fault(kProgram, 3, 10min, "faults", now));
  ASSERT_NE(quarantine.find(kProgram, now), nullptr);
  EXPECT_EQ(quarantine.find(kProgram, now)->faults, 3U);
  EXPECT_EQ(quarantine.find(kOther, now), nullptr);
  EXPECT_NE(quarantine.find(kProgram, now + 10min - 1us), nullptr);
  EXPECT_EQ(quarantine.find(kProgram, now + 10min), nullptr);
  // Its faults are forgotten with it.
  EXPECT_FALSE(quarantine.fault(kProgram, 3, 10min, "faults", now + 11min));
}

TEST_F(QuarantineTest, FaultsFarApartDoNotAddUp) {
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(quarantine.fault(kProgram, 2, 10min, "faults", now));
    now += Quarantine::kFaultMemory;
  }
}

TEST_F(QuarantineTest, ZeroNeverQuarantines) {
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(quarantine.fault(kProgram, 0, 10min, "faults", now));
  EXPECT_TRUE(quarantine.all(now).empty());
}

TEST_F(QuarantineTest, ByHandLastsUntilReleased) {
  quarantine.put(kProgram, 0us, "by hand", now);
  EXPECT_NE(quarantine.find(kProgram, now + 1000h), nullptr);
  ASSERT_EQ(quarantine.all(now).size(), 1U);
  EXPECT_EQ(quarantine.all(now)[0].why, "by hand");
  EXPECT_TRUE(quarantine.release(kProgram, now));
  EXPECT_FALSE(quarantine.release(kProgram, now));
  EXPECT_EQ(quarantine.find(kProgram, now), nullptr);
}

TEST_F(QuarantineTest, MemoryIsBoundedAndTheQuarantinedStay) {
  quarantine.put(kProgram, 0us, "by hand", now);
  for (uid_t uid = 2000; uid < 2000 + 2 * Quarantine::kMostSubjects; ++uid) {
    quarantine.fault({uid, "/x"}, 5, 10min, "faults", now + std::chrono::microseconds(uid));
  }
  EXPECT_NE(quarantine.find(kProgram, now), nullptr);
}

std::vector<PlacingDevice> three() {
  std::vector<PlacingDevice> devices(3);
  devices[0].name = "gpu0";
  devices[1].name = "gpu1";
  devices[2].name = "gpu2";
  devices[0].pool = devices[1].pool = "a";
  devices[2].pool = "b";
  for (std::uint8_t i = 0; i < 3; ++i) {
    devices[i].uuid.fill(static_cast<std::uint8_t>(0x10 + i));
    devices[i].uuid_known = true;
    devices[i].driver = "a driver";
    devices[i].ordinal = i;
  }
  return devices;
}

// The devices' indices, "N?" where the choice is not settled, or "-".
std::string chosen(const std::vector<PlacingDevice>& devices, const std::string& device,
                   const std::string& pool, const DeviceWish& wish, unsigned most = 8) {
  const auto usable = usable_devices(devices, device, pool);
  if (!usable) return "-";
  const auto choice = choose_devices(devices, *usable, wish, most);
  if (!choice) return "-";
  std::string text = std::to_string(choice->device) + (choice->settled ? "" : "?");
  for (const std::size_t i : choice->further) text += "," + std::to_string(i);
  return text;
}

std::string chosen(const std::vector<PlacingDevice>& devices, const std::string& pool, const char* visible) {
  return chosen(devices, "", pool, wish_of(visible));
}

TEST(Placing, LeastLoadedOfThePoolAndTheFirstOfSeveral) {
  auto devices = three();
  EXPECT_EQ(chosen(devices, "", nullptr), "0");
  devices[0].load = 200;
  devices[1].load = 100;
  EXPECT_EQ(chosen(devices, "", nullptr), "1");
  devices[1].serves = false;
  EXPECT_EQ(chosen(devices, "a", nullptr), "0");
  EXPECT_EQ(chosen(devices, "b", nullptr), "2");
  EXPECT_EQ(chosen(devices, "c", nullptr), "-");
  EXPECT_EQ(chosen({}, "", nullptr), "-");
}

TEST(Placing, RulesPinADeviceWhateverTheClientWishes) {
  auto devices = three();
  devices[1].load = 1000;
  EXPECT_EQ(chosen(devices, "gpu1", "", {}), "1");
  EXPECT_EQ(chosen(devices, "gpu7", "", {}), "-");
  EXPECT_EQ(chosen(devices, "gpu1", "", wish_of("0")), "1") << "index 0 of those that it may use";
  EXPECT_EQ(chosen(devices, "gpu1", "", wish_of("1")), "-");
  EXPECT_EQ(chosen(devices, "gpu1", "", wish_of("GPU-11")), "1");
  EXPECT_EQ(chosen(devices, "gpu1", "", wish_of("GPU-10")), "-");
}

TEST(Placing, ClientAsksByIndexInItsPool) {
  auto devices = three();
  EXPECT_EQ(chosen(devices, "a", "1"), "1");
  EXPECT_EQ(chosen(devices, "b", "0"), "2");
  EXPECT_EQ(chosen(devices, "b", "1"), "-");
  EXPECT_EQ(chosen(devices, "a", "4294967295"), "-");
  devices[1].load = 1000;
  devices[1].serves = false;
  EXPECT_EQ(chosen(devices, "a", "1,0"), "1,0") << "a wish is not bent to what would serve better";
}

TEST(Placing, WhoHidesAllDevicesGetsNone) {
  for (const char* hiding : {"", "-1", "none", "0,0", "MIG-1"}) EXPECT_EQ(chosen(three(), "", hiding), "-");
}

TEST(Placing, ClientAsksByUuidWholeOrShortened) {
  const auto devices = three();
  EXPECT_EQ(uuid_text(devices[1].uuid), "GPU-11111111-1111-1111-1111-111111111111");
  EXPECT_EQ(chosen(devices, "a", "GPU-11111111-1111-1111-1111-111111111111"), "1");
  EXPECT_EQ(chosen(devices, "a", "GPU-11"), "1");
  EXPECT_EQ(chosen(devices, "a", "GPU-1"), "-") << "of both";
  EXPECT_EQ(chosen(devices, "a", "GPU-12"), "-") << "of another pool";
  EXPECT_EQ(chosen(devices, "b", "GPU-1"), "2") << "of the only one of the pool";
  EXPECT_EQ(chosen(devices, "a", "GPU-"), "-");
  EXPECT_EQ(chosen(devices, "a", "GPU-11111111-1111-1111-1111-1111111111110"), "-");
}

TEST(Placing, OfDevicesWithOneUuidTheFirstIsMeant) {
  auto devices = three();
  devices[0].uuid = devices[1].uuid;
  EXPECT_EQ(chosen(devices, "a", "GPU-1"), "0");
  EXPECT_EQ(chosen(devices, "a", "GPU-11111111-1111-1111-1111-111111111111"), "0");
  EXPECT_EQ(chosen(devices, "a", "1"), "1");
}

TEST(Placing, AUuidWaitsForDevicesThatHaveNotToldTheirs) {
  auto devices = three();
  devices[1].uuid_known = false;
  EXPECT_EQ(chosen(devices, "a", "GPU-11"), "1?");
  EXPECT_EQ(chosen(devices, "a", "GPU-10"), "1?") << "it may be the beginning of both";
  EXPECT_EQ(chosen(devices, "a", "GPU-10101010-1010-1010-1010-101010101010"), "0");
  devices[1].serves = false;
  EXPECT_EQ(chosen(devices, "a", "GPU-11"), "-") << "who cannot serve is not waited for";
  EXPECT_EQ(chosen(devices, "a", "GPU-10"), "0");
  EXPECT_EQ(chosen(devices, "b", "GPU-12"), "2");
}

TEST(Placing, WishesOfAnyBytesAreAnswered) {
  const auto devices = three();
  DeviceWish wish;
  wish.kind = static_cast<WishKind>(77);
  EXPECT_EQ(chosen(devices, "", "a", wish), "-");
  wish.kind = WishKind::uuid;
  wish.count = 1;
  std::fill(std::begin(wish.uuid[0]), std::end(wish.uuid[0]), '\xff');
  EXPECT_EQ(chosen(devices, "", "a", wish), "-");
  std::fill(std::begin(wish.uuid[0]), std::end(wish.uuid[0]), '1');
  std::copy_n("GPU-", 4, wish.uuid[0]);
  EXPECT_EQ(chosen(devices, "", "a", wish), "-") << "not terminated";
  wish.kind = WishKind::index;
  wish.count = 0;
  EXPECT_EQ(chosen(devices, "", "a", wish), "-");
  wish.count = UINT32_MAX;
  EXPECT_EQ(chosen(devices, "", "a", wish), "-") << "the same one eight times";
  wish.index[1] = UINT32_MAX;
  EXPECT_EQ(chosen(devices, "", "a", wish), "0");
}

TEST(Placing, AListGivesItsDevicesInItsOrderUpToOneThatIsNone) {
  auto devices = three();
  devices[2].pool = "a";
  EXPECT_EQ(chosen(devices, "a", "0,1"), "0,1");
  EXPECT_EQ(chosen(devices, "a", "2,0,1"), "2,0,1");
  EXPECT_EQ(chosen(devices, "a", "0,3,1"), "0");
  EXPECT_EQ(chosen(devices, "a", "3,0"), "-");
  EXPECT_EQ(chosen(devices, "a", "GPU-12,GPU-10"), "2,0");
  EXPECT_EQ(chosen(devices, "a", "GPU-12,GPU-9,GPU-10"), "2");
  EXPECT_EQ(chosen(devices, "a", "GPU-12,GPU-1212"), "-") << "a device named twice";
  EXPECT_EQ(chosen(devices, "a", nullptr), "0") << "who does not ask has one";
  EXPECT_EQ(chosen(devices, "gpu1", "", wish_of("0,1,2")), "1") << "a rule pins one";
}

TEST(Placing, TheClassBoundsHowManyDevicesAListGives) {
  auto devices = three();
  devices[2].pool = "a";
  EXPECT_EQ(chosen(devices, "", "a", wish_of("2,0,1"), 2), "2,0");
  EXPECT_EQ(chosen(devices, "", "a", wish_of("2,0,1"), 1), "2");
  const auto choice = choose_devices(devices, std::vector<std::size_t>{0, 1, 2}, wish_of("2,0,1"), 2);
  ASSERT_EQ(choice->left_out.size(), 1U);
  EXPECT_NE(choice->left_out[0].find("gpu1"), std::string::npos) << choice->left_out[0];
}

TEST(Placing, WhatCannotBeHadBesideTheFirstIsLeftOutAndSaidSo) {
  auto devices = three();
  devices[2].pool = "a";
  const auto without_second = [&](const char* wish = "0,1,2") {
    const auto choice = choose_devices(devices, std::vector<std::size_t>{0, 1, 2}, wish_of(wish), 8);
    return choice && choice->further == std::vector<std::size_t>{2} && choice->left_out.size() == 1;
  };
  EXPECT_FALSE(without_second());
  devices[1].alone = "shares through NVIDIA MPS";
  EXPECT_TRUE(without_second());
  EXPECT_EQ(chosen(devices, "a", "1,0,2"), "1") << "nothing can be had beside it";
  devices[1].alone = {};
  devices[1].driver = "another driver";
  EXPECT_TRUE(without_second());
  devices[1].driver = devices[0].driver;
  devices[1].serves = false;
  EXPECT_TRUE(without_second());
  devices[1].serves = true;
  devices[1].ordinal = 0;
  EXPECT_TRUE(without_second()) << "one card in two guises";
}

TEST(Placing, AFurtherDeviceThatHasNotToldWhatItIsIsWaitedFor) {
  auto devices = three();
  devices[1].uuid_known = false;
  EXPECT_EQ(chosen(devices, "a", "0,1"), "1?");
  EXPECT_EQ(chosen(devices, "a", "1,0"), "1,0") << "its own worker tells of the first";
  EXPECT_EQ(chosen(devices, "a", "GPU-10101010-1010-1010-1010-101010101010,GPU-11"), "1?");
  devices[1].serves = false;
  EXPECT_EQ(chosen(devices, "a", "0,1"), "0");
}

TEST(Placing, AnIndexFindsTheSameDeviceInTheListOfLibnvidiaMl) {
  using List = std::vector<std::size_t>;
  const List usable{1, 4, 5};
  const auto listed = [&](const char* wish, const List& own) {
    return listed_devices(usable, wish_of(wish), own);
  };
  EXPECT_EQ(listed(nullptr, {4}), List{4});
  EXPECT_EQ(listed("1", {4}), (List{1, 4}));
  EXPECT_EQ(listed("0,1", {1}), List{1});
  EXPECT_EQ(listed("0,1", {1, 4}), (List{1, 4}));
  EXPECT_EQ(listed("2,0", {5, 1}), (List{1, 4, 5}));
  EXPECT_EQ(listed("2", {5}), (List{1, 4, 5}));
  EXPECT_EQ(listed("2", {1}), List{1}) << "it runs elsewhere than it wishes now";
  EXPECT_EQ(listed("0,2", {1, 4}), (List{1, 4})) << "the same";
  EXPECT_EQ(listed("3", {4}), List{4});
  EXPECT_EQ(listed("GPU-1", {5}), List{5});
  EXPECT_EQ(listed("GPU-2,GPU-1", {5, 1}), (List{5, 1}));
  EXPECT_EQ(listed("-1", {1}), List{1});
}

struct PromisesTest : testing::Test {
  Promises promises;
  Promises::TimePoint now{1000h};
};

TEST_F(PromisesTest, AreKeptForAWhile) {
  promises.note(10, 2, 100, now);
  EXPECT_EQ(promises.find(10, now), 2U);
  EXPECT_EQ(promises.find(11, now), std::nullopt);
  EXPECT_EQ(promises.find(10, now + Promises::kKept - 1us), 2U);
  EXPECT_EQ(promises.find(10, now + Promises::kKept), std::nullopt);
  promises.drop(10);
  EXPECT_EQ(promises.find(10, now), std::nullopt);
}

TEST_F(PromisesTest, CountAsLoadAtFirst) {
  promises.note(10, 2, 100, now);
  promises.note(11, 2, 50, now);
  promises.note(12, 1, 7, now);
  EXPECT_EQ(promises.load(2, now), 150U);
  // Who asks again and again, as a monitor does, is no client about to come.
  promises.note(10, 2, 100, now + Promises::kExpected);
  EXPECT_EQ(promises.load(2, now + Promises::kExpected), 0U);
  promises.note(11, 1, 50, now + Promises::kExpected);
  EXPECT_EQ(promises.find(11, now + Promises::kExpected), 1U);
  promises.drop(12);
  EXPECT_EQ(promises.load(1, now), 50U);
}

TEST_F(PromisesTest, AreBoundedAndTheOldestGiveWay) {
  for (pid_t pid = 1; pid <= 2 * static_cast<pid_t>(Promises::kMost); ++pid) {
    promises.note(pid, 0, 1, now + std::chrono::microseconds(pid));
  }
  now += 1s;
  EXPECT_EQ(promises.load(0, now), Promises::kMost);
  EXPECT_EQ(promises.find(1, now), std::nullopt);
  EXPECT_EQ(promises.find(2 * static_cast<pid_t>(Promises::kMost), now), 0U);
}

TEST_F(PromisesTest, ProcessesThatCannotBeToldApartGetNone) {
  promises.note(0, 1, 100, now);
  EXPECT_EQ(promises.find(0, now), std::nullopt);
  EXPECT_EQ(promises.load(1, now), 0U);
}

TEST(Lowering, LessIsAllowedMoreIsNot) {
  ClassConfig granted;
  granted.weight = 100;
  granted.memory_quota = 1000;
  granted.launch_rate = 50;
  const auto why = [&](auto&& change) {
    ClassConfig wanted = granted;
    change(wanted);
    return why_not_lower(wanted, granted);
  };
  EXPECT_EQ(why([](ClassConfig&) {}), "");
  EXPECT_EQ(why([](ClassConfig& wanted) { wanted.weight = 1; }), "");
  EXPECT_EQ(why([](ClassConfig& wanted) { wanted.priority = Priority::low; }), "");
  EXPECT_EQ(why([](ClassConfig& wanted) { wanted.memory_quota = 1; }), "");
  EXPECT_EQ(why([](ClassConfig& wanted) { wanted.launch_rate = 1; }), "");
  EXPECT_EQ(why([](ClassConfig& wanted) { wanted.bandwidth = 1; }), "") << "where there was no limit";
  EXPECT_NE(why([](ClassConfig& wanted) { wanted.weight = 101; }).find("'weight'"), std::string::npos);
  EXPECT_NE(why([](ClassConfig& wanted) { wanted.priority = Priority::high; }).find("'priority'"),
            std::string::npos);
  EXPECT_NE(why([](ClassConfig& wanted) { wanted.memory_quota.reset(); }).find("'memory_quota'"),
            std::string::npos);
  EXPECT_NE(why([](ClassConfig& wanted) { wanted.launch_rate = 0; }).find("'launch_rate'"),
            std::string::npos);
  EXPECT_NE(why([](ClassConfig& wanted) { wanted.watchdog = std::chrono::seconds(9); }).find("only"),
            std::string::npos);
}

TEST(Lowering, TheLastValueOfAKeyCounts) {
  EXPECT_EQ(merge_settings({{"weight", "1"}, {"bandwidth", "2"}}, {{"weight", "3"}, {"priority", "low"}}),
            (Settings{{"weight", "3"}, {"bandwidth", "2"}, {"priority", "low"}}));
}

}  // namespace
}  // namespace vgpu::daemon
