// MpsControl against a stand-in for nvidia-cuda-mps-control: a script that keeps the daemon's life in files.
#include "daemon/devices/mps.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "daemon/worker_pool/environment.hpp"

namespace vgpu::daemon {
namespace {

namespace fs = std::filesystem;

class MpsControlTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/vgpud-mps-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  // `-d` makes the file `control`; without an option commands come from standard input, and `quit` removes
  // it.
  std::string script(const std::string& on_start) const {
    const fs::path path = folder_ / "nvidia-cuda-mps-control";
    std::ofstream(path) << "#!/bin/sh\n"
                        << "d=$CUDA_MPS_PIPE_DIRECTORY\n"
                        << "if [ \"$1\" = -d ]; then " << on_start << "; fi\n"
                        << "[ -e $d/control ] || { echo 'Cannot find MPS control daemon process'; exit 1; }\n"
                        << "read line; echo \"$line\" >>$d/said\n"
                        << "case $line in quit*) rm $d/control;; esac\n";
    chmod(path.c_str(), 0755);
    return path;
  }
  static std::string text(const fs::path& file) {
    std::ifstream stream(file);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  fs::path folder_;
};

TEST_F(MpsControlTest, StartsTheDaemonInAFolderOfItsOwnAndEndsIt) {
  const std::string pipes = folder_ / "pipes";
  {
    const auto control = MpsControl::start(script("touch $d/control; exit 0"), pipes);
    ASSERT_TRUE(control) << control.error();
    EXPECT_TRUE(fs::exists(pipes + "/control"));
    EXPECT_EQ(fs::status(pipes).permissions(), fs::perms::owner_all);
    const auto& environment = (*control)->environment();
    EXPECT_EQ(std::count(environment.begin(), environment.end(), "CUDA_MPS_PIPE_DIRECTORY=" + pipes), 1);
  }
  EXPECT_FALSE(fs::exists(pipes + "/control"));
  EXPECT_NE(text(pipes + "/said").find("quit"), std::string::npos);
}

TEST_F(MpsControlTest, TakesOverTheDaemonOfAnEarlierBroker) {
  const std::string pipes = folder_ / "pipes";
  {
    const auto first = MpsControl::start(script("touch $d/control; exit 0"), pipes);
    ASSERT_TRUE(first);
    (*first)->keep();
  }
  ASSERT_TRUE(fs::exists(pipes + "/control"));
  const auto second = MpsControl::start(script("echo An instance is already running; exit 1"), pipes);
  EXPECT_TRUE(second) << second.error();
}

TEST_F(MpsControlTest, SaysWhyItDoesNotStart) {
  const auto control = MpsControl::start(script("echo no GPU here; exit 3"), folder_ / "pipes");
  ASSERT_FALSE(control);
  EXPECT_NE(control.error().find("no GPU here"), std::string::npos) << control.error();
  EXPECT_FALSE(MpsControl::start(folder_ / "missing", folder_ / "pipes"));
}

TEST(EnvironmentBlockTest, SetsVariablesAndKeepsTheOthers) {
  setenv("VGPUD_TEST_KEPT", "1", 1);
  setenv("VGPUD_TEST_CHANGED", "old", 1);
  const EnvironmentBlock block({"VGPUD_TEST_CHANGED=new"});
  std::size_t kept = 0;
  std::size_t changed = 0;
  for (char* const* variable = block.data(); *variable != nullptr; ++variable) {
    const std::string text = *variable;
    if (text == "VGPUD_TEST_KEPT=1") ++kept;
    if (text.rfind("VGPUD_TEST_CHANGED=", 0) == 0) {
      ++changed;
      EXPECT_EQ(text, "VGPUD_TEST_CHANGED=new");
    }
  }
  EXPECT_EQ(kept, 1U);
  EXPECT_EQ(changed, 1U);
}

}  // namespace
}  // namespace vgpu::daemon
