// Clients and workers of a vgpud that ends and of the next one, under a stand-in for systemd. Workers are
// fakes.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "daemon/handover/state_memory.hpp"
#include "daemon/session/session_record.hpp"
#include "daemon/testing/broker_process.hpp"
#include "protocol/channel.hpp"
#include "protocol/gate.hpp"

namespace vgpu::daemon::testing {
namespace {

// A vgpud under a manager, and one client whose worker has said what it did.
class Handover : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(broker_.wait_until_up()) << broker_.log();
    client_ = broker_.hello();
    ASSERT_TRUE(client_.welcome) << broker_.log();
    auto channel = Channel::attach(client_.fds[0].get());
    ASSERT_TRUE(channel);
    channel_ = std::move(*channel);
    ASSERT_TRUE(eventually([&] { return stats()["launches"] == 7; }));
    worker_ = stats()["worker_pid"].get<pid_t>();
    ASSERT_TRUE(eventually([&] { return manager_.stored_names().size() == 10; }));
  }

  nlohmann::json stats() const { return broker_.stats()["clients"][0]; }
  void start() {
    broker_.start();
    ASSERT_TRUE(broker_.wait_until_up()) << broker_.log();
  }
  bool only_the_broker_is_kept() const {
    return eventually(
        [&] { return manager_.stored_names() == std::vector<std::string>{"vgpud/broker/record"}; });
  }
  bool serves_others() const { return static_cast<bool>(broker_.hello().welcome); }

  ServiceManager manager_;
  BrokerProcess broker_{"ok", "classes: {default: {memory_quota: 64MiB}}\n", &manager_};
  Answer client_;
  std::unique_ptr<Channel> channel_;
  pid_t worker_ = 0;
};

TEST_F(Handover, ClientsGoOnWithTheNextBroker) {
  for (const int number : {SIGTERM, SIGKILL, SIGABRT}) {
    SCOPED_TRACE(number);
    const nlohmann::json before = stats();
    broker_.end_with(number);
    EXPECT_TRUE(process_exists(worker_));
    start();
    const nlohmann::json after = stats();
    for (const char* key :
         {"session", "pid", "uid", "worker_pid", "program", "executable", "class", "device", "state",
          "memory_quota", "launches", "kernel_ns", "memory_used", "latency_p50_ns"}) {
      EXPECT_EQ(after[key], before[key]) << key;
    }
    EXPECT_GE(after["age_ns"], before["age_ns"]);
    EXPECT_EQ(channel_->control().closed.load(), 0U);
    EXPECT_FALSE(peer_hung_up(client_.fds[1].get())) << "the worker must still hold its end";
    EXPECT_FALSE(peer_hung_up(client_.socket.get()));
  }
  EXPECT_EQ(broker_.stats()["broker"]["clients_admitted"], 1);
  const Answer second = broker_.hello();
  ASSERT_TRUE(second.welcome);
  EXPECT_GT(second.welcome->session, client_.welcome->session);
}

// The files beside the broker's own configuration: a second device.
void add_second_device(const BrokerProcess& broker) {
  std::filesystem::create_directory(broker.folder() + "/vgpud.d");
  std::ofstream(broker.folder() + "/vgpud.d/second.yaml")
      << "devices: [{name: gpu1, kind: software, ordinal: 1, driver: " << broker.folder() << "/ok}]\n";
}

TEST(SeveralDevices, AClientKeepsThemWithTheNextBroker) {
  const ServiceManager manager;
  BrokerProcess broker("ok", "classes: {default: {memory_quota: 64MiB}}\n", &manager);
  ASSERT_TRUE(broker.wait_until_up()) << broker.log();
  add_second_device(broker);
  broker.end_with(SIGTERM);
  broker.start();
  ASSERT_TRUE(broker.wait_until_up()) << broker.log();
  const UniqueFd client = broker.connect();
  Hello hello;
  hello.protocol_hash = protocol_hash();
  hello.wish.kind = WishKind::index;
  hello.wish.count = 2;
  hello.wish.index[0] = 1;
  ASSERT_TRUE(send_message(client.get(), hello));
  const auto answer = receive_message(client.get(), 10'000);
  ASSERT_TRUE(answer) << answer.error();
  const auto* const welcome = answer->as<Welcome>();
  ASSERT_NE(welcome, nullptr) << broker.log();
  EXPECT_EQ(welcome->device_count, 2U);
  const auto second = receive_message(client.get(), 10'000);
  ASSERT_TRUE(second && second->as<DeviceReport>() != nullptr) << "the second device's report follows";
  ASSERT_TRUE(eventually([&] { return manager.stored_names().size() == 10; }));
  const auto gate = GateMapping::attach(manager.stored().at("vgpud/session-1/gate").get());
  ASSERT_TRUE(gate);
  (*gate)->page(1).launches.store(5);
  (*gate)->page(1).memory_used.store(100);
  const auto row = [&] { return broker.stats()["clients"][0]; };
  ASSERT_TRUE(eventually([&] { return row()["launches"] == 12; }));
  for (const int number : {SIGTERM, SIGKILL}) {
    SCOPED_TRACE(number);
    const nlohmann::json before = row();
    broker.end_with(number);
    for (const std::size_t place : {0U, 1U}) {
      EXPECT_EQ((*gate)->page(place).allowance_ns.load(), no_limit_ns) << "nobody holds it back meanwhile";
    }
    broker.start();
    ASSERT_TRUE(broker.wait_until_up()) << broker.log();
    const nlohmann::json after = row();
    for (const char* key : {"session", "worker_pid", "device", "devices", "state", "launches", "memory_used"})
      EXPECT_EQ(after[key], before[key]) << key;
    EXPECT_EQ(after["device"], "gpu1,gpu0");
    EXPECT_EQ(after["devices"][1]["device"], "gpu0");
    EXPECT_EQ(after["devices"][1]["launches"], 5);
    EXPECT_EQ((*gate)->page(1).memory_quota.load(), 64U << 20U) << "the quota is one of each device";
  }
  // Both are held, and let go.
  ASSERT_EQ(broker.ask({{"request", "pause"}, {"session", 1}})["ok"], true);
  for (const std::size_t place : {0U, 1U}) EXPECT_EQ((*gate)->page(place).allowance_ns.load(), 0U) << place;
  ASSERT_EQ(broker.ask({{"request", "resume"}, {"session", 1}})["ok"], true);
  for (const std::size_t place : {0U, 1U}) {
    EXPECT_EQ((*gate)->page(place).allowance_ns.load(), no_limit_ns) << place;
  }
  // Where one of them is no more, the session cannot go on.
  broker.end_with(SIGKILL);
  std::filesystem::remove(broker.folder() + "/vgpud.d/second.yaml");
  broker.start();
  ASSERT_TRUE(broker.wait_until_up()) << broker.log();
  EXPECT_TRUE(broker.stats()["clients"].empty()) << broker.log();
}

TEST(Oversubscription, WhoIsMovedOutComesBackWithTheNextBroker) {
  const ServiceManager manager;
  BrokerProcess broker("moved, oversubscribe: {host_limit: 1GiB, context_memory: 1MiB}", "", &manager);
  ASSERT_TRUE(broker.wait_until_up()) << broker.log();
  const Answer client = broker.hello();
  ASSERT_TRUE(client.welcome) << broker.log();
  const auto row = [&] { return broker.stats()["clients"][0]; };
  ASSERT_TRUE(eventually([&] { return row()["memory_in_host"] == 4096; }));
  ASSERT_TRUE(eventually([&] { return manager.stored_names().size() == 10; }));
  int restarts = 0;
  for (const int number : {SIGTERM, SIGKILL}) {
    broker.end_with(number);
    broker.start();
    ASSERT_TRUE(broker.wait_until_up()) << broker.log();
    ++restarts;
    EXPECT_TRUE(eventually([&] { return row()["moves_in"] == restarts; })) << row().dump();
  }
  EXPECT_EQ(broker.stats()["devices"][0]["oversubscribe"]["host_limit"], 1U << 30U);
}

TEST_F(Handover, AnAdoptedClientEndsAsAnyOther) {
  {
    const auto gate = GateMapping::attach(manager_.stored().at("vgpud/session-1/gate").get());
    ASSERT_TRUE(gate);
    (*gate)->page().consumed_ns.store(1500);
  }
  broker_.end_with(SIGKILL);
  start();
  client_ = Answer();
  EXPECT_TRUE(eventually([&] { return !process_exists(worker_); }));
  EXPECT_TRUE(eventually([&] { return broker_.stats()["clients"].empty(); }));
  EXPECT_EQ(broker_.stats()["ended"][0]["launches"], 7);
  EXPECT_TRUE(only_the_broker_is_kept());
  // What it did stays the device's with every further broker.
  const auto device = broker_.stats()["devices"][0];
  EXPECT_EQ(device["clients_admitted"], 1);
  EXPECT_EQ(device["device_ns"], 1500);
  for (const int number : {SIGTERM, SIGKILL}) {
    broker_.end_with(number);
    start();
    const auto again = broker_.stats()["devices"][0];
    for (const char* key : {"clients_admitted", "device_ns", "charged_ns", "latency_p99_ns"}) {
      EXPECT_EQ(again[key], device[key]) << key;
    }
  }
}

TEST_F(Handover, AWorkerThatCrashesAfterwardsEndsItsSession) {
  broker_.end_with(SIGTERM);
  start();
  kill(worker_, SIGSEGV);
  EXPECT_TRUE(eventually([&] { return channel_->control().closed.load() == 1; }));
  EXPECT_EQ(stats()["state"], "failed");
  EXPECT_EQ(broker_.stats()["broker"]["worker_failures"], 1);
  EXPECT_TRUE(only_the_broker_is_kept());
  EXPECT_TRUE(serves_others());
}

TEST_F(Handover, AWorkerThatCrashedMeanwhileEndsItsSession) {
  broker_.end_with(SIGKILL);
  kill(worker_, SIGSEGV);
  ASSERT_TRUE(eventually([&] { return !process_exists(worker_); }));
  start();
  EXPECT_TRUE(eventually([&] { return channel_->control().closed.load() == 1; }));
  EXPECT_TRUE(only_the_broker_is_kept());
}

TEST_F(Handover, AClientThatLeftMeanwhileLeavesNothing) {
  broker_.end_with(SIGKILL);
  client_ = Answer();
  start();
  EXPECT_TRUE(eventually([&] { return !process_exists(worker_); }));
  EXPECT_TRUE(eventually([&] { return broker_.stats()["clients"].empty(); }));
  EXPECT_TRUE(only_the_broker_is_kept());
}

TEST_F(Handover, ManagerThatLetsGoEndsTheWorkers) {
  broker_.end_with(SIGTERM);
  EXPECT_TRUE(process_exists(worker_));
  manager_.forget_all();
  EXPECT_TRUE(eventually([&] { return !process_exists(worker_); }));
  EXPECT_TRUE(eventually([&] { return peer_hung_up(client_.fds[1].get()); })) << "the client must notice";
}

// Killed between writing a session down and welcoming its client.
TEST_F(Handover, ASessionWhoseClientDoesNotKnowOfItEndsSoThatTheClientAsksAgain) {
  broker_.end_with(SIGKILL);
  UniqueFd fd(fcntl(manager_.stored().at("vgpud/session-1/record").get(), F_DUPFD_CLOEXEC, 0));
  auto memory = StateMemory::open(std::move(fd));
  ASSERT_TRUE(memory) << memory.error();
  auto record = decode_session(*memory->read());
  ASSERT_TRUE(record && record->welcomed);
  record->welcomed = false;
  ASSERT_TRUE(memory->write(encode(*record)));
  start();
  EXPECT_TRUE(broker_.stats()["clients"].empty()) << broker_.log();
  EXPECT_TRUE(only_the_broker_is_kept());
  EXPECT_TRUE(eventually([&] { return peer_hung_up(client_.fds[1].get()); })) << "the client must notice";
  EXPECT_TRUE(serves_others());
}

TEST_F(Handover, WhatIsIncompleteOrDamagedEndsAndHurtsNobody) {
  const std::string owner = "vgpud/session-1/";
  broker_.end_with(SIGKILL);
  for (const char* part : {"record", "client", "client-process", "channel", "worker", "worker-process",
                           "gate", "attention", "lifeline"}) {
    SCOPED_TRACE(part);
    const auto kept = manager_.stored();
    ASSERT_EQ(kept.count(owner + part), 1U);
    ASSERT_TRUE(process_exists(worker_));
    manager_.forget(owner + part);
    start();
    EXPECT_TRUE(broker_.stats()["clients"].empty()) << broker_.log();
    EXPECT_TRUE(only_the_broker_is_kept());
    EXPECT_TRUE(serves_others());
    // Ours keep the worker alive for the next round.
    broker_.end_with(SIGKILL);
    manager_.forget_all();
    manager_.put(kept);
  }
  // Magic, version; the unused slot's sequence number; of the used slot the length and the data.
  constexpr off_t used_slot = 4096;
  constexpr off_t unused_slot = 8192 + static_cast<off_t>(StateMemory::max_bytes);
  const std::uint64_t garbage = ~std::uint64_t{0};
  for (const off_t at : {off_t{0}, off_t{8}, unused_slot, used_slot + 8, used_slot + 16}) {
    SCOPED_TRACE(at);
    const auto kept = manager_.stored();
    std::uint64_t good = 0;
    const int record = kept.at(owner + "record").get();
    ASSERT_EQ(pread(record, &good, sizeof good, at), 8);
    ASSERT_EQ(pwrite(record, &garbage, sizeof garbage, at), 8);
    start();
    EXPECT_TRUE(broker_.stats()["clients"].empty()) << broker_.log();
    EXPECT_TRUE(serves_others());
    broker_.end_with(SIGKILL);
    ASSERT_EQ(pwrite(record, &good, sizeof good, at), 8);
    manager_.forget_all();
    manager_.put(kept);
  }
  start();
  EXPECT_EQ(stats()["worker_pid"], worker_) << "with everything in place it goes on";
}

TEST_F(Handover, WhatWasChangedOfAClientHoldsWithTheNextBroker) {
  using nlohmann::json;
  ASSERT_EQ(broker_.ask({{"request", "set"},
                         {"session", 1},
                         {"settings", {{"weight", "42"}, {"memory_quota", "32MiB"}}}})["ok"],
            true);
  ASSERT_EQ(broker_.ask({{"request", "pause"}, {"session", 1}})["ok"], true);
  const auto gate = GateMapping::attach(manager_.stored().at("vgpud/session-1/gate").get());
  ASSERT_TRUE(gate);
  const GatePage& page = (*gate)->page();
  for (const int number : {SIGTERM, SIGKILL}) {
    SCOPED_TRACE(number);
    broker_.end_with(number);
    EXPECT_EQ(page.allowance_ns.load(), 0U) << "a paused client stays so while there is no broker";
    start();
    const json now = stats();
    EXPECT_EQ(now["weight"], 42);
    EXPECT_EQ(now["memory_quota"], 32U << 20U);
    EXPECT_EQ(now["state"], "paused");
    EXPECT_EQ(page.allowance_ns.load(), 0U);
    EXPECT_EQ(page.memory_quota.load(), 32U << 20U);
  }
  EXPECT_EQ(broker_.ask({{"request", "resume"}, {"session", 1}})["ok"], true);
  EXPECT_EQ(page.allowance_ns.load(), no_limit_ns);
}

TEST_F(Handover, AQuarantineLastsOverARestart) {
  ASSERT_EQ(
      broker_.ask({{"request", "quarantine"}, {"session", 1}, {"for", "1h"}, {"why", "it is mine"}})["ok"],
      true);
  const auto gate = GateMapping::attach(manager_.stored().at("vgpud/session-1/gate").get());
  ASSERT_TRUE(gate);
  broker_.end_with(SIGKILL);
  start();
  EXPECT_EQ(stats()["state"], "quarantined");
  EXPECT_EQ((*gate)->page().allowance_ns.load(), 0U);
  const nlohmann::json list = broker_.ask({{"request", "quarantined"}})["quarantined"];
  ASSERT_EQ(list.size(), 1U);
  EXPECT_EQ(list[0]["why"], "it is mine");
  EXPECT_LE(list[0]["left_ns"], 3'600'000'000'000);
  EXPECT_GT(list[0]["left_ns"], 3'500'000'000'000);
  const Answer another = broker_.hello();
  ASSERT_TRUE(another.refused);
  EXPECT_NE(std::string(another.refused->text).find("it is mine"), std::string::npos)
      << another.refused->text;
  EXPECT_EQ(broker_.stats()["broker"]["refused_quarantined"], 1);
  EXPECT_EQ(broker_.stats()["broker"]["quarantines"], 1) << "counts go on";
  EXPECT_EQ(broker_.ask({{"request", "release"}, {"session", 1}})["ok"], true);
  EXPECT_EQ(stats()["state"], "running");
  EXPECT_TRUE(serves_others());
}

TEST_F(Handover, WithoutABrokerNobodyIsHeldBack) {
  const Answer rival = broker_.hello();
  ASSERT_TRUE(rival.welcome);
  ASSERT_TRUE(eventually([&] { return manager_.stored_names().size() == 19; }));
  const auto kept = manager_.stored();
  const auto gate = GateMapping::attach(kept.at("vgpud/session-1/gate").get());
  ASSERT_TRUE(gate);
  GatePage& page = (*gate)->page();
  page.consumed_ns = 3'000'000'000;
  page.backlogged = 1;
  const auto other = GateMapping::attach(kept.at("vgpud/session-2/gate").get());
  (*other)->page().backlogged = 1;
  ASSERT_TRUE(eventually([&] { return page.allowance_ns.load() != no_limit_ns; }));
  broker_.end_with(SIGTERM);
  EXPECT_EQ(page.allowance_ns.load(), no_limit_ns);
  // The next one counts from now: what was used before the restart is not held against anybody.
  start();
  ASSERT_TRUE(eventually([&] { return page.allowance_ns.load() != no_limit_ns; }));
  EXPECT_GT(page.allowance_ns.load(), page.consumed_ns.load());
}

}  // namespace
}  // namespace vgpu::daemon::testing
