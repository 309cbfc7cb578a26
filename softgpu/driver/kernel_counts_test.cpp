// The table of kernels' costs, and that launches come to it.
#include "softgpu/driver/kernel_counts.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "softgpu/driver/driver.hpp"
#include "softgpu/driver/driver_fixture.hpp"

namespace softgpu {
namespace {

std::filesystem::path temporary(const std::string& name) {
  return std::filesystem::path(testing::TempDir()) / (name + '.' + std::to_string(getpid()));
}

std::string content(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(KernelCounts, SumUpByNameWithTheSlowestFirst) {
  KernelCounts counts("-");
  counts.add("quick", 10, 700);
  counts.add("slow", 30, 1);
  counts.add("quick", 15, 300);
  counts.add("also quick", 25, 5);
  std::ostringstream text;
  counts.write(text);
  EXPECT_EQ(text.str(),
            "kernel\tlaunches\tbusy_ns\tlane_instructions\n"
            "slow\t1\t30\t1\n"
            "also quick\t1\t25\t5\n"
            "quick\t2\t25\t1000\n");
}

TEST(KernelCounts, ReplaceAFileOrSayThatTheyCannot) {
  const std::filesystem::path path = temporary("replaced");
  std::ofstream(path)
      << "a longer table of an earlier process that shall not be seen behind the new one\n\n\n";
  KernelCounts counts(path);
  counts.add("k", 1, 2);
  EXPECT_TRUE(counts.save());
  EXPECT_EQ(content(path), "kernel\tlaunches\tbusy_ns\tlane_instructions\nk\t1\t1\t2\n");
  EXPECT_FALSE(KernelCounts(path / "below a file").save());
  std::filesystem::remove(path);
}

TEST(KernelCounts, AreKeptOnlyWhereTheEnvironmentSaysWhereTo) {
  ASSERT_EQ(unsetenv("SOFTGPU_KERNELS"), 0);
  EXPECT_EQ(wanted_kernel_counts(), nullptr);
  ASSERT_EQ(setenv("SOFTGPU_KERNELS", "", 1), 0);
  EXPECT_EQ(wanted_kernel_counts(), nullptr);
  ASSERT_EQ(setenv("SOFTGPU_KERNELS", "-", 1), 0);
  EXPECT_NE(wanted_kernel_counts(), nullptr);
  ASSERT_EQ(unsetenv("SOFTGPU_KERNELS"), 0);
}

[[noreturn]] void launch_and_exit() {
  CUcontext context = nullptr;
  CUmodule module = nullptr;
  CUfunction print = nullptr;
  const bool launched =
      cuInit(0) == CUDA_SUCCESS && cuDevicePrimaryCtxRetain(&context, 0) == CUDA_SUCCESS &&
      cuCtxSetCurrent(context) == CUDA_SUCCESS && cuModuleLoadData(&module, double_image) == CUDA_SUCCESS &&
      cuModuleGetFunction(&print, module, "print") == CUDA_SUCCESS &&
      cuLaunchKernel(print, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr) == CUDA_SUCCESS &&
      cuCtxSynchronize() == CUDA_SUCCESS;
  std::exit(launched ? 0 : 1);
}

TEST(KernelCountsDeathTest, AreWrittenWhenTheProcessEnds) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // the child begins anew, and takes the path that is set
  const std::filesystem::path path = temporary("at_exit");
  ASSERT_EQ(setenv("SOFTGPU_KERNELS", path.c_str(), 0), 0);
  EXPECT_EXIT(launch_and_exit(), testing::ExitedWithCode(0), "");
  ASSERT_EQ(unsetenv("SOFTGPU_KERNELS"), 0);
  EXPECT_NE(content(path).find("\nprint\t1\t"), std::string::npos) << content(path);
  std::filesystem::remove(path);
}

class KernelCountsOfTheDriver : public DriverTest {
 protected:
  void SetUp() override {
    DriverTest::SetUp();
    Driver::get().kernel_counts = std::make_unique<KernelCounts>("-");
  }
  void TearDown() override {
    Driver::get().kernel_counts.reset();
    DriverTest::TearDown();
  }
  static KernelCount of(std::string_view name) {
    const auto all = Driver::get().kernel_counts->by_time();
    const auto found = std::ranges::find(all, name, &KernelCount::name);
    return found == all.end() ? KernelCount{} : *found;
  }
};

TEST_F(KernelCountsOfTheDriver, HoldEachLaunchWithWhatTheEngineCounted) {
  const CUdeviceptr data = words(8);
  ASSERT_EQ(cuMemsetD32_v2(data, 0, 8), CUDA_SUCCESS);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(add(data, 8, 1, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(append(data, 1, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_EQ(of("add").launches, 3U);
  EXPECT_EQ(of("add").lane_instructions, 3 * 32 * double_instructions);
  EXPECT_GT(of("add").busy_ns, 0U);
  EXPECT_EQ(of("append").launches, 1U);
  EXPECT_EQ(of("append").lane_instructions, double_instructions);
  EXPECT_EQ(Driver::get().kernel_counts->by_time().size(), 2U);
}

}  // namespace
}  // namespace softgpu
