// A slot of a VM's memory and the sessions in it, one after the other. The guest is the test, workers are
// fake.
#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <thread>

#include "daemon/testing/qemu.hpp"

namespace vgpu::daemon::testing {
namespace {

class VmSlot : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(broker_.wait_until_up()) << broker_.log();
    qemu_ = std::make_unique<Qemu>(vm_socket(broker_, "web"));
    ASSERT_TRUE(qemu_->connected()) << broker_.log();
    qemu_->guest().generation.store(1);
  }
  // Writes a request and waits for its answer.
  [[nodiscard]] bool ask(std::uint32_t slot, bool open) const {
    stub::SlotControl& control = qemu_->slot(slot);
    const std::uint32_t request = stub::next_request(control.guest.request.load(), open);
    control.guest.request.store(request);
    qemu_->ring(stub::vector_request);
    return eventually([&] { return control.host.answered.load() == request; }, 10000);
  }
  [[nodiscard]] bool is(std::uint32_t slot, stub::SlotState state) const {
    return qemu_->slot(slot).host.state.load() == static_cast<std::uint32_t>(state);
  }
  // Pids of the workers that serve the VM.
  [[nodiscard]] std::vector<pid_t> serving() const {
    std::vector<pid_t> pids;
    const nlohmann::json stats = broker_.stats();
    for (const nlohmann::json& row : stats["clients"]) {
      if (row["vm"] == "web") pids.push_back(row["worker_pid"].get<pid_t>());
    }
    return pids;
  }

  // What the host shows of the one session of the VM.
  [[nodiscard]] nlohmann::json shown() const {
    const nlohmann::json stats = broker_.stats();
    for (const nlohmann::json& row : stats["clients"]) {
      if (row["vm"] == "web") return row;
    }
    return {};
  }
  // Says who slot 0's session is for.
  void name(std::int32_t pid, std::uint32_t uid, const char* program) const {
    stub::SlotGuest& guest = qemu_->slot(0).guest;
    guest.pid = pid;
    guest.uid = uid;
    set_text(guest.program, program);
    guest.identity.fetch_add(1);
  }

  explicit VmSlot(const std::string& configuration = kWebVm) : broker_("ok", configuration) {}

  BrokerProcess broker_;
  std::unique_ptr<Qemu> qemu_;
};

struct VmWithLittlePatience : VmSlot {
  VmWithLittlePatience() : VmSlot("vms: [{name: web, size: 16MiB, slots: 2, guest_timeout: 1s}]\n") {}
};

struct VmOfAClassForOne : VmSlot {
  VmOfAClassForOne() : VmSlot(std::string(kWebVm) + "classes: {default: {max_clients: 1}}\n") {}
};

struct VmAmongFewClients : VmSlot {
  VmAmongFewClients()
      : VmSlot("vms: [{name: web, size: 16MiB, slots: 4}]\nlimits: {clients: 5, clients_per_user: 3}\n") {}
};

TEST_F(VmSlot, HasOneWorkerAtATimeWhenItIsOpenedAnew) {
  ASSERT_TRUE(ask(0, true)) << broker_.log();
  ASSERT_TRUE(is(0, stub::SlotState::open));
  for (int round = 0; round < 5; ++round) {
    SCOPED_TRACE(round);
    const std::vector<pid_t> before = serving();
    ASSERT_EQ(before.size(), 1U);
    // Its owner died without closing it, and the next process has found that out.
    ASSERT_TRUE(ask(0, true)) << broker_.log();
    EXPECT_NE(kill(before[0], 0), 0) << "the worker of the session before is still there";
    EXPECT_EQ(errno, ESRCH);
    ASSERT_TRUE(is(0, stub::SlotState::open)) << broker_.log();
    EXPECT_FALSE(eventually([&] { return qemu_->channel(0).closed.load() != 0; }, 100))
        << "the end of the session before closed the channel of this one";
    EXPECT_TRUE(is(0, stub::SlotState::open)) << broker_.log();
  }
}

TEST_F(VmSlot, IsEmptyWhenItsClosingIsAnswered) {
  ASSERT_TRUE(ask(0, true)) << broker_.log();
  qemu_->channel(0).closed.store(7);
  const std::vector<pid_t> before = serving();
  ASSERT_EQ(before.size(), 1U);
  ASSERT_TRUE(ask(0, false));
  EXPECT_TRUE(is(0, stub::SlotState::free));
  EXPECT_NE(kill(before[0], 0), 0);
  EXPECT_EQ(qemu_->channel(0).closed.load(), 0U);
}

TEST_F(VmSlot, NewSessionIsNobodysUntilTheGuestSaysWhose) {
  ASSERT_TRUE(ask(0, true)) << broker_.log();
  name(4711, 1000, "first");
  ASSERT_TRUE(eventually([&] { return shown()["guest_pid"] == 4711; })) << shown().dump();
  for (const bool closed_first : {true, false}) {
    SCOPED_TRACE(closed_first);
    if (closed_first) {
      ASSERT_TRUE(ask(0, false));
    }
    ASSERT_TRUE(ask(0, true)) << broker_.log();
    EXPECT_FALSE(eventually([&] { return shown()["guest_pid"] == 4711; }, 150)) << shown().dump();
    EXPECT_EQ(shown()["guest_pid"], 0);
    EXPECT_NE(shown()["program"], "first");
  }
  name(4712, 1001, "second");
  EXPECT_TRUE(eventually([&] { return shown()["guest_pid"] == 4712; })) << shown().dump();
  EXPECT_EQ(shown()["program"], "second");
}

TEST_F(VmSlot, GuestWithoutAGenerationHoldsNothing) {
  ASSERT_TRUE(ask(0, true)) << broker_.log();
  ASSERT_EQ(serving().size(), 1U);
  qemu_->guest().generation.store(0);
  EXPECT_TRUE(eventually([&] { return serving().empty(); }));
  qemu_->slot(1).guest.request.store(1);
  qemu_->ring(stub::vector_request);
  EXPECT_FALSE(eventually([&] { return !serving().empty(); }, 200)) << "served, though nobody is attached";
  qemu_->guest().generation.store(2);
  ASSERT_TRUE(ask(0, true)) << broker_.log();
  EXPECT_TRUE(is(0, stub::SlotState::open));
}

TEST_F(VmWithLittlePatience, IsHeldToItsHeartbeat) {
  ASSERT_TRUE(ask(0, true)) << broker_.log();
  for (std::uint64_t beat = 1; beat < 30; ++beat) {
    qemu_->guest().heartbeat.store(beat);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_EQ(serving().size(), 1U) << "it was alive";
  EXPECT_TRUE(eventually([&] { return serving().empty(); }, 5000)) << "it is silent";
  EXPECT_TRUE(is(0, stub::SlotState::ended));
  qemu_->slot(1).guest.request.store(1);
  qemu_->ring(stub::vector_request);
  EXPECT_FALSE(eventually([&] { return !serving().empty(); }, 200)) << "served, though it is silent";
  qemu_->guest().heartbeat.store(100);
  EXPECT_TRUE(eventually([&] { return is(1, stub::SlotState::open); }, 5000))
      << "it was suspended, and is back";
}

TEST_F(VmAmongFewClients, LeavesHalfOfThemToOthers) {
  ASSERT_TRUE(ask(0, true)) << broker_.log();
  ASSERT_TRUE(ask(1, true));
  ASSERT_TRUE(is(1, stub::SlotState::open)) << broker_.log();
  ASSERT_TRUE(ask(2, true));
  EXPECT_TRUE(is(2, stub::SlotState::refused));
  EXPECT_NE(std::string(qemu_->slot(2).host.reason).find("one VM has at most 2"), std::string::npos)
      << qemu_->slot(2).host.reason;
  ASSERT_TRUE(ask(0, false));
  ASSERT_TRUE(ask(2, true));
  EXPECT_TRUE(is(2, stub::SlotState::open)) << "there is room again";
}

TEST_F(VmOfAClassForOne, IsRefusedWhatItsClassRefuses) {
  ASSERT_TRUE(ask(0, true)) << broker_.log();
  ASSERT_TRUE(is(0, stub::SlotState::open)) << broker_.log();
  ASSERT_TRUE(ask(1, true));
  EXPECT_TRUE(is(1, stub::SlotState::refused));
  EXPECT_STREQ(qemu_->slot(1).host.reason, "class 'default' is limited to 1 clients");
  EXPECT_EQ(qemu_->slot(1).host.code, static_cast<std::uint32_t>(RefusalCode::busy));
  ASSERT_TRUE(ask(0, false));
  ASSERT_TRUE(ask(1, true));
  EXPECT_TRUE(is(1, stub::SlotState::open));
}

TEST_F(VmSlot, GuestCannotFillTheLog) {
  for (std::uint64_t generation = 2; generation < 2000; ++generation) {
    qemu_->guest().generation.store(generation);
    qemu_->ring(stub::vector_request);
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  const std::string log = broker_.log();
  std::size_t lines = 0;
  for (std::size_t at = 0; (at = log.find("guest attached", at)) != std::string::npos; ++at) ++lines;
  EXPECT_GE(lines, 10U);
  EXPECT_LE(lines, 60U);
  EXPECT_TRUE(eventually([&] { return broker_.log().find("left out count=") != std::string::npos; }, 15000))
      << "not told how many lines are missing";
  EXPECT_NE(broker_.log().find("vm=web", broker_.log().find("left out count=")), std::string::npos);
}

TEST_F(VmSlot, RequestsThatTheHostSeesLateCountAsTheLastOfThem) {
  stub::SlotControl& control = qemu_->slot(1);
  std::uint32_t request = 0;
  for (const bool open : {true, false, true, true, false}) {
    request = stub::next_request(request, open);
    control.guest.request.store(request);
  }
  EXPECT_FALSE(stub::wants_open(request));
  qemu_->ring(stub::vector_request);
  EXPECT_TRUE(eventually([&] { return control.host.answered.load() == request; }, 10000));
  EXPECT_TRUE(is(1, stub::SlotState::free));
  EXPECT_TRUE(eventually([&] { return serving().empty(); }));
}

}  // namespace
}  // namespace vgpu::daemon::testing
