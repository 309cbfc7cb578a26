// The broker as a process, from outside: admission, faults, reload, end. Workers are fakes.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "daemon/testing/broker_process.hpp"
#include "protocol/channel.hpp"

namespace vgpu::daemon::testing {
namespace {

TEST(Broker, AdmitsAClientWithItsChannelAndDevice) {
  const BrokerProcess broker("ok", "classes: {default: {memory_quota: 64MiB}}\n");
  ASSERT_TRUE(broker.wait_until_up()) << broker.log();
  const Answer client = broker.hello();
  ASSERT_TRUE(client.welcome) << broker.log();
  EXPECT_EQ(client.welcome->memory_quota, 64U << 20U);
  EXPECT_STREQ(client.welcome->device.name, "Fake GPU");
  ASSERT_EQ(client.fds.size(), 2U);
  EXPECT_TRUE(Channel::attach(client.fds[0].get()));

  ASSERT_TRUE(eventually([&] { return broker.stats()["clients"][0]["launches"] == 7; }));
  const auto stats = broker.stats()["clients"][0];
  EXPECT_EQ(stats["pid"], getpid());
  EXPECT_EQ(stats["uid"], getuid());
  EXPECT_EQ(stats["class"], "default");
  EXPECT_EQ(stats["device"], "gpu0");
  EXPECT_EQ(stats["state"], "running");
  EXPECT_EQ(stats["memory_used"], 4096);
  EXPECT_GE(stats["latency_p50_ns"], 5000);
  EXPECT_TRUE(process_exists(stats["worker_pid"].get<pid_t>()));
}

TEST(Broker, SecondClientGetsAWorkerOfItsOwn) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  const Answer first = broker.hello();
  const Answer second = broker.hello();
  ASSERT_TRUE(first.welcome && second.welcome);
  EXPECT_NE(first.welcome->session, second.welcome->session);
  const auto clients = broker.stats()["clients"];
  ASSERT_EQ(clients.size(), 2U);
  EXPECT_NE(clients[0]["worker_pid"], clients[1]["worker_pid"]);
}

TEST(Broker, RefusesAnotherProtocolWithASentence) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  const Answer client = broker.hello(protocol_hash() + 1);
  ASSERT_TRUE(client.refused);
  EXPECT_EQ(client.refused->code, RefusalCode::protocol);
  EXPECT_GT(std::string(client.refused->text).size(), 10U);
}

TEST(Broker, RefusesByRule) {
  const BrokerProcess broker("ok",
                             "rules: [{match: {uid: " + std::to_string(getuid()) + "}, reject: true}]\n");
  ASSERT_TRUE(broker.wait_until_up());
  const Answer client = broker.hello();
  ASSERT_TRUE(client.refused);
  EXPECT_EQ(client.refused->code, RefusalCode::not_allowed);
}

TEST(Broker, ClassAndUserLimitsHold) {
  const BrokerProcess broker("ok", "classes: {default: {max_clients: 1}}\n");
  ASSERT_TRUE(broker.wait_until_up());
  Answer first = broker.hello();
  ASSERT_TRUE(first.welcome);
  const Answer second = broker.hello();
  ASSERT_TRUE(second.refused);
  EXPECT_EQ(second.refused->code, RefusalCode::busy);
  first.socket.reset();
  EXPECT_TRUE(eventually([&] { return static_cast<bool>(broker.hello().welcome); }));
}

TEST(Broker, KilledClientIsGoneWithinASecondWithAllItHeld) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  ASSERT_TRUE(eventually([&] { return broker.workers().size() == 1; }, 5000));
  const Answer neighbour = broker.hello();
  ASSERT_TRUE(neighbour.welcome);
  ASSERT_TRUE(eventually([&] { return broker.workers().size() == 2; }, 5000));
  const std::size_t descriptors = broker.open_descriptors();

  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const Answer client = broker.hello();
    const char good = client.welcome ? 'y' : 'n';
    if (write(ready[1], &good, 1) != 1) _exit(1);
    pause();
    _exit(0);
  }
  char good = 0;
  ASSERT_EQ(read(ready[0], &good, 1), 1);
  ASSERT_EQ(good, 'y');
  ASSERT_TRUE(eventually([&] { return broker.stats()["clients"][1]["launches"] == 7; }));
  const auto worker = broker.stats()["clients"][1]["worker_pid"].get<pid_t>();
  kill(child, SIGKILL);
  EXPECT_TRUE(eventually([&] { return !process_exists(worker) && broker.stats()["clients"].size() == 1; }));
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(eventually([&] { return broker.open_descriptors() <= descriptors; }))
      << broker.open_descriptors();
  const auto stats = broker.stats();
  EXPECT_EQ(stats["clients"][0]["state"], "running");
  EXPECT_EQ(stats["ended"][0]["pid"], child);
  EXPECT_EQ(stats["ended"][0]["launches"], 7);
  close(ready[0]);
  close(ready[1]);
}

TEST(Broker, WorkerCrashClosesTheChannelAndOnlyThatOne) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  const Answer victim = broker.hello();
  const Answer neighbour = broker.hello();
  ASSERT_TRUE(victim.welcome && neighbour.welcome);
  const auto channel = Channel::attach(victim.fds[0].get());
  const auto other = Channel::attach(neighbour.fds[0].get());
  ASSERT_TRUE(channel && other);
  kill(broker.stats()["clients"][0]["worker_pid"].get<pid_t>(), SIGSEGV);
  EXPECT_TRUE(eventually([&] { return (*channel)->control().closed.load() == 1; }));
  EXPECT_EQ((*other)->control().closed.load(), 0U);
  const auto stats = broker.stats();
  EXPECT_EQ(stats["clients"][0]["state"], "failed");
  EXPECT_EQ(stats["clients"][1]["state"], "running");
  EXPECT_EQ(stats["broker"]["worker_failures"], 1);
  EXPECT_TRUE(broker.hello().welcome) << "the pool must have a new worker";
}

TEST(Broker, WorkerThatLeavesInOrderIsNoFailure) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  const Answer client = broker.hello();
  ASSERT_TRUE(client.welcome);
  // The fake worker ends with status 0 at SIGTERM, as a real one does when it sees its client leave.
  kill(broker.stats()["clients"][0]["worker_pid"].get<pid_t>(), SIGTERM);
  EXPECT_TRUE(eventually([&] { return broker.stats()["clients"].empty(); }));
  const auto stats = broker.stats();
  EXPECT_EQ(stats["broker"]["worker_failures"], 0);
  EXPECT_EQ(stats["ended"][0]["ending"], "the client left");
}

TEST(Broker, FailingDriverIsSaidToTheClientAtOnce) {
  for (const char* behaviour : {"fail", "dies", "garbage"}) {
    const BrokerProcess broker(behaviour);
    ASSERT_TRUE(broker.wait_until_up());
    const Answer client = broker.hello();
    ASSERT_TRUE(client.refused) << behaviour;
    EXPECT_EQ(client.refused->code, RefusalCode::no_device);
    EXPECT_NE(broker.ask({{"request", "devices"}})["devices"][0]["problem"], "");
    EXPECT_TRUE(broker.alive());
  }
}

TEST(Broker, ClientDoesNotWaitForEverForAWorker) {
  const BrokerProcess broker("mute", "limits: {worker_wait: 200ms}\n");
  ASSERT_TRUE(broker.wait_until_up());
  const Answer client = broker.hello();
  ASSERT_TRUE(client.refused);
  EXPECT_EQ(client.refused->code, RefusalCode::no_device);
}

TEST(Broker, ReloadTakesTheNewClassesAndKeepsTheOldOnesIfTheFileIsWrong) {
  const BrokerProcess broker("ok", "classes: {default: {memory_quota: 64MiB}}\n");
  ASSERT_TRUE(broker.wait_until_up());
  broker.write_config("ok", "classes: {default: {memory_quta: 32MiB}}\n");
  kill(broker.pid(), SIGHUP);
  EXPECT_TRUE(eventually([&] { return broker.log().find("memory_quta") != std::string::npos; }));
  EXPECT_EQ(broker.hello().welcome->memory_quota, 64U << 20U);

  broker.write_config("ok", "classes: {default: {memory_quota: 32MiB}}\n");
  EXPECT_EQ(broker.ask({{"request", "reload"}})["ok"], true);
  EXPECT_EQ(broker.hello().welcome->memory_quota, 32U << 20U);
}

TEST(Broker, EndLeavesNoProcessAndNoSocket) {
  for (const int number : {SIGTERM, SIGINT}) {
    BrokerProcess broker;
    ASSERT_TRUE(broker.wait_until_up());
    const Answer client = broker.hello();
    ASSERT_TRUE(client.welcome);
    ASSERT_TRUE(eventually([&] { return broker.workers().size() == 2; }, 5000));
    const auto workers = broker.workers();
    EXPECT_EQ(broker.end_with(number), 0);
    for (const pid_t worker : workers) EXPECT_FALSE(process_exists(worker));
    EXPECT_NE(access(broker.socket_path().c_str(), F_OK), 0);
    EXPECT_NE(access(broker.control_path().c_str(), F_OK), 0);
  }
}

TEST(Broker, KilledBrokerLeavesNoWorker) {
  BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  ASSERT_TRUE(eventually([&] { return !broker.workers().empty(); }, 5000));
  const auto workers = broker.workers();
  broker.end_with(SIGKILL);
  for (const pid_t worker : workers) {
    EXPECT_TRUE(eventually([&] { return !process_exists(worker); }));
  }
}

TEST(Broker, SecondBrokerDoesNotTakeALivingSocket) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  const std::string command =
      std::string(VGPUD_BINARY) + " --config " + broker.config_path() + " 2>/dev/null";
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1);
  EXPECT_TRUE(broker.hello().welcome);
}

TEST(Broker, SocketsAreNotForEverybody) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  for (const std::string& path : {broker.socket_path(), broker.control_path()}) {
    struct stat status {};
    ASSERT_EQ(stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07U, 0U) << path;
  }
}

TEST(Broker, WrongConfigurationIsPrintedWithItsPlaceAndEndsWithTwo) {
  BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  const std::string bad = broker.folder() + "/bad.yaml";
  const std::string out = broker.folder() + "/out";
  std::ofstream(bad) << "log:\n  levle: info\n";
  const std::string command = std::string(VGPUD_BINARY) + " --check-config " + bad + " 2> " + out;
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 2);
  std::string line;
  std::ifstream stream(out);
  std::getline(stream, line);
  EXPECT_EQ(line, bad + ":2:3: unknown key 'levle' in 'log' (known: level, target)");
}

}  // namespace
}  // namespace vgpu::daemon::testing
