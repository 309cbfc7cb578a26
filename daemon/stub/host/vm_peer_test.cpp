// What somebody can do to a VM who may connect to its socket, but is not its QEMU, or not any more.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "daemon/testing/qemu.hpp"

namespace vgpu::daemon::testing {
namespace {

class VmPeer : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(broker_.wait_until_up()) << broker_.log(); }
  [[nodiscard]] nlohmann::json row() const {
    const nlohmann::json answer = broker_.ask({{"request", "vms"}});
    return answer["vms"].empty() ? nlohmann::json() : answer["vms"][0];
  }
  // The VM's words for "QEMU has gone" have been said.
  [[nodiscard]] bool nobody_is_connected() const {
    return eventually([&] { return !row()["connected"].get<bool>(); });
  }

  BrokerProcess broker_{"ok", kWebVm};
};

TEST_F(VmPeer, WhoWasConnectedBeforeHasNothingOfTheNextQemu) {
  Qemu spy(vm_socket(broker_, "web"));
  ASSERT_TRUE(spy.connected()) << broker_.log();
  spy.hang_up();
  ASSERT_TRUE(nobody_is_connected());
  const Qemu qemu(vm_socket(broker_, "web"));
  ASSERT_TRUE(qemu.connected()) << broker_.log();

  qemu.channel(0).closed.store(7);
  EXPECT_EQ(spy.channel(0).closed.load(), 0U) << "the memory is the same";
  spy.guest().generation.store(1);
  EXPECT_FALSE(eventually([&] { return row()["attached"].get<bool>(); }, 200));
  spy.ring(stub::vector_request);
  EXPECT_FALSE(eventually([&] { return row()["doorbells"] != 0; }, 200)) << "the doorbells are the same";
  qemu.ring(stub::vector_request);
  EXPECT_TRUE(eventually([&] { return row()["doorbells"] == 1; }));
}

TEST_F(VmPeer, WhoHasGoneIsNotServedAnyMore) {
  Qemu qemu(vm_socket(broker_, "web"));
  ASSERT_TRUE(qemu.connected()) << broker_.log();
  qemu.hang_up();
  ASSERT_TRUE(nobody_is_connected());
  qemu.guest().generation.store(1);
  EXPECT_FALSE(eventually([&] { return row()["attached"].get<bool>(); }, 200));
}

TEST_F(VmPeer, CannotHoldUpWhoReadsItsDoorbells) {
  const Qemu qemu(vm_socket(broker_, "web"));
  ASSERT_TRUE(qemu.connected()) << broker_.log();
  const int bell = qemu.doorbell(stub::vector_kick);
  // The flags belong to the open file, which is the host's as well.
  ASSERT_EQ(fcntl(bell, F_SETFL, fcntl(bell, F_GETFL) & ~O_NONBLOCK), 0);
  std::atomic<bool> stop{false};
  std::thread thief([&] {
    std::uint64_t count = 0;
    while (!stop.load()) EXPECT_EQ(read(bell, &count, sizeof count), static_cast<ssize_t>(sizeof count));
  });
  // The other doorbell stays rung only as long as the host does not look at it.
  const auto other_is_heard = [&] {
    pollfd other{qemu.doorbell(stub::vector_request), POLLIN, 0};
    return poll(&other, 1, 0) == 0;
  };
  // Who is told of a ring by poll() and then loses the race for it must not wait for the next one. The last
  // ring of each burst is one that nothing follows.
  bool held_up = false;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(3);
  for (unsigned burst = 0; !held_up && std::chrono::steady_clock::now() < until; ++burst) {
    for (unsigned ring = 0; ring < 3; ++ring) {
      qemu.ring(stub::vector_kick);
      for (std::atomic<unsigned> turn{0}; turn.load() < (burst * 3 + ring) * 37 % 3000;) turn.fetch_add(1);
    }
    qemu.ring(stub::vector_request);
    for (unsigned look = 0; look < 1000 && !other_is_heard(); ++look) std::this_thread::yield();
    held_up = !eventually(other_is_heard, 2000);
  }
  EXPECT_FALSE(held_up) << "the other doorbell is not heard any more";
  std::atomic<bool> answered{false};
  nlohmann::json answer;
  std::thread asking([&] {
    answer = broker_.ask({{"request", "vm_remove"}, {"name", "web"}});
    answered.store(true);
  });
  if (!eventually([&] { return answered.load(); })) broker_.end_with(SIGKILL);
  asking.join();
  stop.store(true);
  qemu.ring(stub::vector_kick);
  thief.join();
  ASSERT_TRUE(answer.is_object()) << "the VM's end waits for its thread";
  EXPECT_TRUE(answer["ok"].get<bool>());
}

}  // namespace
}  // namespace vgpu::daemon::testing
