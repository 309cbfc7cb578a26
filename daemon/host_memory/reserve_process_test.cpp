// The broker's side of vgpud-reserve: it is told what to hold, its end is seen, and it never outlives the
// broker.
#include "daemon/host_memory/reserve_process.hpp"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace vgpu::daemon {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr std::uint64_t mebibyte = 1ULL << 20U;

// A program that stands for vgpud-reserve and does what the script says; its pid is in the file "pid".
class ReserveProcessTest : public ::testing::Test {
 protected:
  ReserveProcessTest() {
    std::string name = (fs::temp_directory_path() / "vgpud-reserve-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    signal(SIGPIPE, SIG_IGN);
  }
  ~ReserveProcessTest() override { fs::remove_all(folder_); }

  std::string program(const std::string& script) const {
    std::string path = folder_ + "/program";
    std::ofstream(path) << "#!/bin/sh\necho $$ > " << folder_ << "/written\nmv " << folder_ << "/written "
                        << folder_ << "/pid\n"
                        << script << "\n";
    chmod(path.c_str(), 0700);
    return path;
  }

  pid_t started() const {
    for (int i = 0; i < 2000; ++i) {
      pid_t pid = 0;
      if (std::ifstream(folder_ + "/pid") >> pid) return pid;
      usleep(5000);
    }
    return 0;
  }

  template <class Condition>
  bool serve_until(Condition condition) {
    for (int i = 0; i < 2000 && !condition(); ++i) loop_.run_once(5ms);
    return condition();
  }

  EventLoop loop_;
  std::string folder_;
};

TEST_F(ReserveProcessTest, TheRealProgramFollows) {
  ReserveProcess reserve(loop_, VGPUD_RESERVE_PATH, 64 * mebibyte, 20ms);
  EXPECT_TRUE(reserve.busy());
  EXPECT_TRUE(serve_until([&] { return !reserve.busy(); }));
  EXPECT_EQ(reserve.held(), 64 * mebibyte);
  EXPECT_GT(reserve.first_took(), 0ns);
  reserve.aim(10 * mebibyte);
  EXPECT_TRUE(serve_until([&] { return reserve.held() == 32 * mebibyte; }));
  reserve.aim(0);
  EXPECT_TRUE(serve_until([&] { return reserve.held() == 0; }));
  reserve.aim(1024 * mebibyte);
  EXPECT_TRUE(serve_until([&] { return reserve.held() == 64 * mebibyte; }));
  EXPECT_TRUE(reserve.running());
}

TEST_F(ReserveProcessTest, LessIsSaidAtOnceMoreWhenAllIsCalm) {
  // It writes what it hears into a file and obeys.
  ReserveProcess reserve(loop_,
                         program("while read line; do echo $line >> " + folder_ + "/heard; echo $line; done"),
                         100, 300ms);
  ASSERT_TRUE(serve_until([&] { return reserve.held() == 100; }));
  reserve.aim(50);
  reserve.aim(90);
  reserve.aim(40);
  reserve.aim(70);
  reserve.aim(80);
  ASSERT_TRUE(serve_until([&] { return reserve.held() == 80; }));
  reserve.aim(500);
  ASSERT_TRUE(serve_until([&] { return reserve.held() == 100; }));
  std::ifstream heard(folder_ + "/heard");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(heard), {}), "100\n50\n40\n80\n100\n");
}

TEST_F(ReserveProcessTest, OneThatEndsHoldsNothingAndIsToldNothing) {
  for (const std::string& path :
       {program("read line; echo $line; read line"), program("exit 1"), folder_ + "/none", std::string()}) {
    ReserveProcess reserve(loop_, path, 64, 1ms);
    serve_until([&] { return !reserve.running() || reserve.held() == 64; });
    reserve.aim(32);
    EXPECT_TRUE(serve_until([&] { return !reserve.running(); })) << path;
    EXPECT_EQ(reserve.held(), 0U);
    EXPECT_FALSE(reserve.busy());
    reserve.aim(16);
  }
}

TEST_F(ReserveProcessTest, EndsTheProgramWithItself) {
  pid_t pid = 0;
  {
    const ReserveProcess reserve(loop_, program("exec sleep 100"), 64 * mebibyte);
    pid = started();
    ASSERT_NE(pid, 0);
    EXPECT_EQ(kill(pid, 0), 0);
  }
  EXPECT_EQ(kill(pid, 0), -1) << "killed and reaped";
}

// A broker that is killed cannot clean up.
TEST_F(ReserveProcessTest, TheKernelEndsTheProgramWithItsBroker) {
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  const std::string path = program("exec sleep 100");
  const pid_t broker = fork();
  if (broker == 0) {
    const ReserveProcess reserve(loop_, path, 64 * mebibyte);
    for (;;) pause();
  }
  const pid_t pid = started();
  kill(broker, SIGKILL);
  waitpid(broker, nullptr, 0);
  ASSERT_NE(pid, 0);
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
}

}  // namespace
}  // namespace vgpu::daemon
