#include "protocol/visible_devices.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <string>

namespace vgpu {
namespace {

// "any", "nothing", "index 3 1" or "uuid GPU-..."
std::string read(const char* variable) {
  const DeviceWish wish = wish_of(variable);
  if (wish.kind == WishKind::any) return "any";
  if (wish.kind == WishKind::nothing) return "nothing";
  std::string text = wish.kind == WishKind::index ? "index" : "uuid";
  for (std::uint32_t i = 0; i < wish.count; ++i) {
    text += " " + (wish.kind == WishKind::index ? std::to_string(wish.index[i]) : std::string(wish.uuid[i]));
  }
  return text;
}

TEST(VisibleDevices, NotSetIsNoWish) {
  EXPECT_EQ(read(nullptr), "any");
}

TEST(VisibleDevices, WhatNamesNoDeviceHidesAll) {
  for (const char* hiding :
       {"", " ", ",", ",0", "-1", "-1,0", "none", "all", "NoDevFiles", "x1", "+", "- 1",
        "MIG-11111111-2222-3333-4444-555555555555", "MIG-GPU-1/0/0", "gpu-1", "GPU", " GPU-1"}) {
    EXPECT_EQ(read(hiding), "nothing") << hiding;
  }
}

TEST(VisibleDevices, NumbersAreReadAsStrtoulDoes) {
  EXPECT_EQ(read("0"), "index 0");
  EXPECT_EQ(read("17"), "index 17");
  EXPECT_EQ(read("007"), "index 7");
  EXPECT_EQ(read("  3 "), "index 3");
  EXPECT_EQ(read("\t+2"), "index 2");
  EXPECT_EQ(read("1gpu2,2ampere"), "index 1 2");
  EXPECT_EQ(read("0-2"), "index 0");
  EXPECT_EQ(read("4294967295"), "index 4294967295");
  EXPECT_EQ(read("4294967296"), "nothing");
  EXPECT_EQ(read("99999999999999999999999999"), "nothing");
}

TEST(VisibleDevices, AListEndsAtTheFirstEntryThatIsNotOfItsKind) {
  EXPECT_EQ(read("2,1"), "index 2 1");
  EXPECT_EQ(read("1,"), "index 1");
  EXPECT_EQ(read("1,,2"), "index 1");
  EXPECT_EQ(read("0,2,-1,1"), "index 0 2");
  EXPECT_EQ(read("3,GPU-11"), "index 3");
  EXPECT_EQ(read("GPU-aa,GPU-bb"), "uuid GPU-aa GPU-bb");
  EXPECT_EQ(read("GPU-aa,0"), "uuid GPU-aa");
}

TEST(VisibleDevices, AsManyEntriesCountAsAClientMayHaveDevices) {
  EXPECT_EQ(read("9,8,7,6,5,4,3,2"), "index 9 8 7 6 5 4 3 2");
  EXPECT_EQ(read("9,8,7,6,5,4,3,2,1,0"), "index 9 8 7 6 5 4 3 2");
  EXPECT_EQ(read("9,8,7,6,5,4,3,2,1,9"), "nothing");
  EXPECT_EQ(read("GPU-1,GPU-2,GPU-3,GPU-4,GPU-5,GPU-6,GPU-7,GPU-8,GPU-9"),
            "uuid GPU-1 GPU-2 GPU-3 GPU-4 GPU-5 GPU-6 GPU-7 GPU-8");
}

TEST(VisibleDevices, WishesAreTheSameWhereEveryEntryIs) {
  EXPECT_TRUE(same_wish(wish_of(nullptr), wish_of(nullptr)));
  EXPECT_TRUE(same_wish(wish_of("1,0"), wish_of("1, 0,-1")));
  EXPECT_FALSE(same_wish(wish_of("1,0"), wish_of("0,1")));
  EXPECT_FALSE(same_wish(wish_of("1"), wish_of("1,0")));
  EXPECT_FALSE(same_wish(wish_of("GPU-1,GPU-2"), wish_of("GPU-1,GPU-3")));
}

TEST(VisibleDevices, AnEntryThatComesTwiceHidesAllUnlessTheListHasEndedBefore) {
  EXPECT_EQ(read("0,0"), "nothing");
  EXPECT_EQ(read("1,2,3, 2"), "nothing");
  EXPECT_EQ(read("1,01"), "nothing");
  EXPECT_EQ(read("1,-1,1"), "index 1");
  EXPECT_EQ(read("1,x,1"), "index 1");
  EXPECT_EQ(read("GPU-aa,GPU-bb,GPU-aa"), "nothing");
  EXPECT_EQ(read("GPU-aa,0,GPU-aa"), "uuid GPU-aa");
}

TEST(VisibleDevices, UuidsAreWholeOrShortened) {
  EXPECT_EQ(read("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"),
            "uuid GPU-8932f937-d72c-4106-c12f-20bd9faed9f6");
  EXPECT_EQ(read("GPU-8"), "uuid GPU-8");
  // The longest that a message holds, and one more.
  DeviceWish wish;
  const std::string longest = "GPU-" + std::string(sizeof wish.uuid[0] - 1 - 4, 'a');
  EXPECT_EQ(read(longest.c_str()), "uuid " + longest);
  EXPECT_EQ(read((longest + "a").c_str()), "nothing");
}

TEST(VisibleDevices, AnyLengthIsRead) {
  std::string many = "7";
  for (int i = 0; i < 100'000; ++i) many += ",1" + std::to_string(i);
  EXPECT_EQ(read(many.c_str()), "index 7 10 11 12 13 14 15 16");
  EXPECT_EQ(read(std::string(1'000'000, '9').c_str()), "nothing");
  EXPECT_EQ(read(std::string(1'000'000, ',').c_str()), "nothing");
}

TEST(VisibleDevices, EveryByteIsReadAsSomething) {
  for (int a = 1; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      const char text[3] = {static_cast<char>(a), static_cast<char>(b), '\0'};
      const std::string found = read(text);
      EXPECT_EQ(found.starts_with("index"),
                std::isdigit(a) != 0 || (std::strchr("+ \t\n\v\f\r", a) != nullptr && std::isdigit(b) != 0))
          << a << " " << b;
    }
  }
}

TEST(VisibleDevices, TheEnvironmentIsRead) {
  ASSERT_EQ(::setenv("CUDA_VISIBLE_DEVICES", "5", 1), 0);
  EXPECT_EQ(wish_of_environment().index[0], 5U);
  ASSERT_EQ(::unsetenv("CUDA_VISIBLE_DEVICES"), 0);
  EXPECT_EQ(wish_of_environment().kind, WishKind::any);
}

TEST(VisibleDevices, AWishOfAnyBytesGivesAUuidsBeginningOrNothing) {
  DeviceWish wish;
  const auto given = [&](const std::string& bytes) {
    std::memset(wish.uuid, 0x5A, sizeof wish.uuid);
    std::memcpy(wish.uuid[1], bytes.data(), std::min(bytes.size(), sizeof wish.uuid[1]));
    return std::string(wished_uuid(wish, 1));
  };
  EXPECT_EQ(given(std::string("GPU-1a-2\0", 9)), "GPU-1a-2");
  EXPECT_EQ(given(std::string("GPU-\0", 5)), "");
  EXPECT_EQ(given(std::string("GPU-1A\0", 7)), "");
  EXPECT_EQ(given(std::string("GPU-1\n\0", 7)), "");
  EXPECT_EQ(given(std::string("\0", 1)), "");
  EXPECT_EQ(given("GPU-1"), "") << "followed by garbage, not terminated";
  EXPECT_EQ(given("GPU-" + std::string(sizeof wish.uuid[1], 'a')).size(), sizeof wish.uuid[1]);
}

TEST(VisibleDevices, AWishOfAnyBytesHasNoMoreEntriesThanAMessageHolds) {
  DeviceWish wish;
  wish.count = UINT32_MAX;
  EXPECT_EQ(wished_count(wish), 0U);
  wish.kind = WishKind::index;
  EXPECT_EQ(wished_count(wish), most_client_devices);
  wish.kind = static_cast<WishKind>(77);
  EXPECT_EQ(wished_count(wish), 0U);
}

}  // namespace
}  // namespace vgpu
