// A QEMU of a vgpud that ends and of the next one, under a stand-in for systemd. QEMU is its socket's end
// only.
#include <gtest/gtest.h>

#include <csignal>

#include "daemon/testing/broker_process.hpp"
#include "daemon/testing/qemu.hpp"

namespace vgpu::daemon::testing {
namespace {

class VmHandover : public ::testing::Test {
 protected:
  void start(const std::string& config) {
    broker_ = std::make_unique<BrokerProcess>("ok", config, &manager_);
    ASSERT_TRUE(broker_->wait_until_up()) << broker_->log();
  }
  void restart(int signal) {
    broker_->end_with(signal);
    broker_->start();
    ASSERT_TRUE(broker_->wait_until_up()) << broker_->log();
  }
  [[nodiscard]] std::filesystem::path path(const std::string& vm) const { return vm_socket(*broker_, vm); }
  [[nodiscard]] nlohmann::json row(const std::string& vm) const {
    const nlohmann::json answer = broker_->ask({{"request", "vms"}});
    for (const nlohmann::json& one : answer["vms"]) {
      if (one["name"] == vm) return one;
    }
    return {};
  }
  [[nodiscard]] bool served(const Qemu& qemu) const {
    const std::uint64_t before = qemu.page().heartbeat.load();
    return eventually([&] {
      return qemu.page().heartbeat.load() != before &&
             qemu.page().state.load() == static_cast<std::uint32_t>(stub::HostState::serving);
    });
  }
  [[nodiscard]] std::size_t kept() const {
    std::size_t count = 0;
    for (const std::string& name : manager_.stored_names()) {
      if (name.find("/vm-") != std::string::npos || name.find("/qemu-") != std::string::npos) ++count;
    }
    return count;
  }

  ServiceManager manager_;
  std::unique_ptr<BrokerProcess> broker_;
};

TEST_F(VmHandover, QemuNoticesNothing) {
  start(kWebVm);
  const Qemu qemu(path("web"));
  ASSERT_TRUE(qemu.connected()) << broker_->log();
  for (const int signal : {SIGTERM, SIGKILL, SIGABRT}) {
    SCOPED_TRACE(signal);
    ASSERT_TRUE(served(qemu));
    const std::uint64_t generation = qemu.page().generation.load();
    restart(signal);
    EXPECT_TRUE(served(qemu)) << broker_->log();
    EXPECT_NE(qemu.page().generation.load(), generation) << "the guest must see that its sessions have ended";
    EXPECT_FALSE(peer_hung_up(qemu.socket()));
    EXPECT_EQ(receive_number(qemu.socket()).value, INT64_MIN) << "QEMU is told nothing";
    EXPECT_TRUE(row("web")["connected"].get<bool>());
    qemu.ring(stub::vector_request);
    EXPECT_TRUE(eventually([&] { return row("web")["doorbells"] == 1; }));
  }
}

TEST_F(VmHandover, PeerIdsAreNotUsedAgain) {
  start(kWebVm);
  std::int64_t last = 0;
  for (int round = 0; round < 3; ++round) {
    {
      const Qemu qemu(path("web"));
      EXPECT_GT(qemu.peer(), last);
      last = qemu.peer();
      restart(SIGKILL);
    }
    EXPECT_TRUE(eventually([&] { return !row("web")["connected"].get<bool>(); }));
  }
}

TEST_F(VmHandover, AQemuThatLeftMeanwhileIsNotTakenForPresent) {
  start(kWebVm);
  {
    const Qemu qemu(path("web"));
    broker_->end_with(SIGKILL);
  }
  broker_->start();
  ASSERT_TRUE(broker_->wait_until_up());
  EXPECT_TRUE(eventually([&] { return !row("web")["connected"].get<bool>(); }));
  const Qemu next(path("web"));
  ASSERT_TRUE(next.connected());
  EXPECT_TRUE(served(next));
}

TEST_F(VmHandover, AVmAddedByHandGoesOnAndOneRemovedDoesNot) {
  start("");
  ASSERT_TRUE(
      broker_->ask({{"request", "vm_add"}, {"name", "byhand"}, {"bytes", 16U << 20U}, {"slots", 2}})["ok"]
          .get<bool>());
  const Qemu qemu(path("byhand"));
  ASSERT_TRUE(qemu.connected()) << broker_->log();
  restart(SIGTERM);
  EXPECT_TRUE(served(qemu)) << broker_->log();
  EXPECT_FALSE(peer_hung_up(qemu.socket()));
  EXPECT_TRUE(broker_->ask({{"request", "vm_remove"}, {"name", "byhand"}})["ok"].get<bool>());
  EXPECT_TRUE(eventually([&] { return kept() == 0; }));
  EXPECT_TRUE(eventually([&] { return peer_hung_up(qemu.socket()); }));
}

TEST_F(VmHandover, AVmConfiguredOtherwiseOrNoLongerLosesItsQemu) {
  for (const char* next :
       {"vms: [{name: web, size: 32MiB, slots: 2}]\n", "vms: [{name: other, size: 16MiB, slots: 2}]\n"}) {
    SCOPED_TRACE(next);
    start(kWebVm);
    const Qemu qemu(path("web"));
    ASSERT_TRUE(qemu.connected());
    broker_->write_config("ok", next);
    restart(SIGTERM);
    EXPECT_TRUE(eventually([&] { return peer_hung_up(qemu.socket()); })) << broker_->log();
    broker_.reset();
    manager_.forget_all();
  }
}

TEST_F(VmHandover, WhatIsIncompleteOrDamagedIsMadeAnew) {
  start(kWebVm);
  for (const char* part :
       {"vm-web/record", "qemu-web/memory", "qemu-web/doorbell-0", "qemu-web/connection"}) {
    SCOPED_TRACE(part);
    ASSERT_TRUE(eventually([&] { return kept() == 1; }));
    const Qemu qemu(path("web"));
    ASSERT_TRUE(qemu.connected());
    ASSERT_TRUE(eventually([&] { return kept() == 5; }));
    broker_->end_with(SIGKILL);
    manager_.forget(std::string("vgpud/") + part);
    broker_->start();
    ASSERT_TRUE(broker_->wait_until_up());
    EXPECT_TRUE(eventually([&] { return peer_hung_up(qemu.socket()); })) << broker_->log();
    const Qemu second(path("web"));
    ASSERT_TRUE(second.connected());
    EXPECT_TRUE(served(second));
  }
}

}  // namespace
}  // namespace vgpu::daemon::testing
