#include "cli/standalone.hpp"

#include <gtest/gtest.h>

#include "protocol/visible_devices.hpp"

namespace vgpu::cli {
namespace {

// "count/first"
std::string devices(const std::string& kind, const char* visible, unsigned cards) {
  const PrivateDevices found = private_devices(kind, wish_of(visible), cards);
  return std::to_string(found.count) + "/" + std::to_string(found.first);
}

TEST(PrivateDevices, OneUnlessTheProgramAsksForAnother) {
  EXPECT_EQ(devices("auto", nullptr, 8), "1/0");
  EXPECT_EQ(devices("auto", "", 8), "1/0");
  EXPECT_EQ(devices("auto", "0", 8), "1/0");
  EXPECT_EQ(devices("auto", "GPU-12", 1), "1/0");
  EXPECT_EQ(devices("auto", "1", 0), "1/0");
}

TEST(PrivateDevices, EachCardUpToTheOneThatIsNamed) {
  EXPECT_EQ(devices("auto", "2,0", 4), "3/2");
  EXPECT_EQ(devices("auto", "0,3,1", 4), "4/0");
  EXPECT_EQ(devices("auto", "0,4,1", 4), "1/0") << "the list ends before what is none";
  EXPECT_EQ(devices("cuda", "3", 4), "4/3");
  EXPECT_EQ(devices("cuda", "4", 4), "1/0") << "no such card: none will be visible";
  EXPECT_EQ(devices("cuda", "GPU-12", 4), "4/0");
}

TEST(PrivateDevices, TheSoftwareGpuIsOne) {
  EXPECT_EQ(devices("software", "2", 4), "1/0");
}

}  // namespace
}  // namespace vgpu::cli
