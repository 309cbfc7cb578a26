#include "daemon/session/listen.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace vgpu::daemon {
namespace {

namespace fs = std::filesystem;

class Listen : public ::testing::Test {
 protected:
  Listen() {
    std::string pattern = "/tmp/vgpud-listen-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~Listen() override { fs::remove_all(folder_); }

  [[nodiscard]] std::string path() const { return folder_ / "a.sock"; }
  [[nodiscard]] tl::expected<ListeningPath, std::string> create(int type = SOCK_STREAM) const {
    return ListeningPath::create(path(), type, "");
  }
  [[nodiscard]] bool is_socket() const {
    struct stat status {};
    return lstat(path().c_str(), &status) == 0 && S_ISSOCK(status.st_mode);
  }

  fs::path folder_;
};

TEST_F(Listen, TheSocketGoesWithTheObject) {
  {
    const auto made = create();
    ASSERT_TRUE(made) << made.error();
    EXPECT_TRUE(is_socket());
  }
  EXPECT_FALSE(fs::exists(path()));
}

TEST_F(Listen, ASocketThatADeadBrokerLeftIsReplaced) {
  {
    const UniqueFd left(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path().copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(bind(left.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  ASSERT_TRUE(is_socket());
  const auto made = create();
  EXPECT_TRUE(made) << made.error();
}

TEST_F(Listen, ALivingBrokersSocketStays) {
  const auto first = create();
  ASSERT_TRUE(first) << first.error();
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    const auto second = create(type);
    ASSERT_FALSE(second);
    EXPECT_NE(second.error().find("already listens"), std::string::npos) << second.error();
  }
  EXPECT_TRUE(is_socket());
}

TEST_F(Listen, WhatIsNoSocketStays) {
  std::ofstream(path()) << "precious";
  const auto over_file = create();
  ASSERT_FALSE(over_file);
  EXPECT_NE(over_file.error().find("no socket"), std::string::npos) << over_file.error();
  EXPECT_EQ(fs::file_size(path()), 8U);

  fs::rename(path(), folder_ / "file");
  fs::create_symlink(folder_ / "file", path());
  EXPECT_FALSE(create());
  EXPECT_TRUE(fs::is_symlink(path()));

  fs::remove(path());
  fs::create_directory(path());
  EXPECT_FALSE(create());
  EXPECT_TRUE(fs::is_directory(path()));
}

}  // namespace
}  // namespace vgpu::daemon
