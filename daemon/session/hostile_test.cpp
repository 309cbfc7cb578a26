// What hostile peers may do to the broker's sockets: nothing that an honest client notices.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <random>
#include <span>

#include "daemon/control/schema.hpp"
#include "daemon/testing/broker_process.hpp"

namespace vgpu::daemon::testing {
namespace {

TEST(HostileClient, RandomBytesAreDroppedAndTheBrokerLives) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    const UniqueFd socket = broker.connect();
    std::vector<unsigned char> bytes(random() % 3000);
    for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(random());
    send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  // The connections of the last moments may still count against this user.
  EXPECT_TRUE(eventually([&] { return static_cast<bool>(broker.hello().welcome); }));
}

TEST(HostileClient, AlmostRightHellosAreRefused) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    Hello hello;
    hello.protocol_hash = protocol_hash();
    auto* bytes = reinterpret_cast<unsigned char*>(&hello);
    bytes[random() % offsetof(Hello, wish)] ^= static_cast<unsigned char>(1U << (random() % 8));
    const UniqueFd socket = broker.connect();
    ASSERT_TRUE(send_message(socket.get(), hello));
    const auto answer = receive_message(socket.get(), 5000);
    ASSERT_TRUE(answer) << answer.error();
    EXPECT_EQ(answer->as<Welcome>(), nullptr) << "round " << round;
  }
  EXPECT_TRUE(broker.hello().welcome);
}

// What a client wishes for is its own word.
TEST(HostileClient, WishesOfAnyBytesAreAnswered) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  std::mt19937 random(7);
  int admitted = 0;
  for (int round = 0; round < 300; ++round) {
    Hello hello;
    hello.protocol_hash = protocol_hash();
    auto* bytes = reinterpret_cast<unsigned char*>(&hello.wish);
    for (std::size_t i = 0; i < sizeof hello.wish; ++i) bytes[i] = static_cast<unsigned char>(random());
    if (round % 2 == 0) hello.wish.kind = static_cast<WishKind>(random() % 5);
    if (round % 3 == 0) hello.wish.index[0] = static_cast<std::uint32_t>(random() % 3);
    if (round % 4 == 0) std::copy_n("GPU-", 4, std::begin(hello.wish.uuid[0]));
    if (round % 5 == 0) hello.wish.count = static_cast<std::uint32_t>(random() % 3);
    StatusQuery query;
    query.wish = hello.wish;
    query.index = static_cast<std::uint32_t>(round % 3 == 0 ? random() % 3 : random());
    const UniqueFd asker = broker.connect();
    ASSERT_TRUE(send_message(asker.get(), query));
    const auto status = receive_message(asker.get(), 5000);
    ASSERT_TRUE(status) << status.error();
    EXPECT_TRUE(status->as<DeviceStatus>() != nullptr || status->as<Refused>() != nullptr);
    const UniqueFd socket = broker.connect();
    ASSERT_TRUE(send_message(socket.get(), hello));
    const auto answer = receive_message(socket.get(), 5000);
    ASSERT_TRUE(answer) << answer.error();
    const bool welcome = answer->as<Welcome>() != nullptr;
    const auto* refused = answer->as<Refused>();
    EXPECT_TRUE(welcome || (refused != nullptr && refused->code == RefusalCode::no_device));
    const bool first =
        hello.wish.kind == WishKind::index && hello.wish.count != 0 && hello.wish.index[0] == 0;
    const bool twice = first && hello.wish.count > 1 &&
                       std::count(std::begin(hello.wish.index), std::end(hello.wish.index), 0U) > 1;
    const bool may = hello.wish.kind == WishKind::any || (first && !twice);
    EXPECT_EQ(welcome, may) << "round " << round;
    admitted += welcome ? 1 : 0;
  }
  EXPECT_GT(admitted, 0);
  EXPECT_TRUE(broker.hello().welcome);
}

TEST(HostileClient, ClientsOfAnotherVersionAreToldSo) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  struct {
    FirstWords words{MessageType::hello, 1, hello_magic};
    std::uint64_t hash = protocol_hash();
  } old;
  const UniqueFd socket = broker.connect();
  ASSERT_TRUE(send_message(socket.get(), std::as_bytes(std::span(&old, 1))));
  const auto answer = receive_message(socket.get(), 5000);
  ASSERT_TRUE(answer) << answer.error();
  const auto* const refused = answer->as<Refused>();
  ASSERT_NE(refused, nullptr);
  EXPECT_EQ(refused->code, RefusalCode::protocol);
  EXPECT_NE(std::string(refused->text).find("install both from one build"), std::string::npos);
  EXPECT_EQ(broker.stats()["broker"]["handshakes_mismatched"], 1);
}

TEST(HostileClient, SilentConnectionsEndAfterTheTimeout) {
  const BrokerProcess broker("ok", "limits: {handshake_timeout: 200ms}\n");
  ASSERT_TRUE(broker.wait_until_up());
  std::vector<UniqueFd> silent;
  silent.reserve(20);
  for (int i = 0; i < 20; ++i) silent.push_back(broker.connect());
  EXPECT_TRUE(broker.hello().welcome);
  EXPECT_TRUE(eventually([&] { return broker.stats()["broker"]["handshakes_timed_out"] == 20; }, 2000));
  for (const UniqueFd& socket : silent) EXPECT_TRUE(peer_hung_up(socket.get()));
}

TEST(HostileClient, ThousandsOfConnectionsCostTheBrokerNothing) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  const BrokerProcess broker("ok",
                             "limits: {handshakes: 16, handshakes_per_user: 8, handshake_timeout: 300ms}\n");
  ASSERT_TRUE(broker.wait_until_up());
  ASSERT_TRUE(eventually([&] { return broker.stats()["devices"][0]["workers_ready"] == 1; }, 5000));
  const std::size_t before = broker.open_descriptors();
  {
    std::vector<UniqueFd> flood;
    flood.reserve(2000);
    for (int i = 0; i < 2000; ++i) flood.push_back(broker.connect());
    EXPECT_LE(broker.open_descriptors(), before + 8 + 2);
  }
  EXPECT_TRUE(eventually([&] { return static_cast<bool>(broker.hello().welcome); }, 3000)) << broker.log();
  EXPECT_GE(broker.stats()["broker"]["handshakes_over_limit"], 1900);
}

TEST(HostileClient, MessageAfterTheHelloEndsTheSession) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  const Answer client = broker.hello();
  ASSERT_TRUE(client.welcome);
  ASSERT_TRUE(send_message(client.socket.get(), Hello{}));
  EXPECT_TRUE(eventually([&] { return broker.stats()["clients"].empty(); }));
}

TEST(HostileClient, DescriptorsSentAlongAreClosed) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  ASSERT_TRUE(eventually([&] { return broker.stats()["devices"][0]["workers_ready"] == 1; }, 5000));
  const std::size_t before = broker.open_descriptors();
  for (int i = 0; i < 50; ++i) {
    // A broker that has not seen the earlier ones go yet closes what is more than it takes at once.
    ASSERT_TRUE(eventually([&] {
      const UniqueFd socket = broker.connect();
      const std::array<int, 8> fds{0, 1, 2, 0, 1, 2, 0, 1};
      return send_message(socket.get(), StatusQuery{}, fds).has_value();
    }));
  }
  EXPECT_TRUE(eventually([&] { return broker.open_descriptors() <= before + 1; }));
}

TEST(HostileControl, GarbageIsAnsweredAndEndlessLinesAreDropped) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  for (const char* line : {"", "{", "[]", "7", "{\"request\":7}", "{\"request\":\"nothing\"}",
                           "{\"request\":\"stats\",\"mine\":7}", "\xff\xfe", "{\"request\":\"\xff\"}"}) {
    const auto answer = nlohmann::json::parse(broker.control_line(line), nullptr, false);
    ASSERT_TRUE(answer.is_object()) << line;
    EXPECT_EQ(answer["ok"], false) << line;
    EXPECT_NE(answer["error"], "");
  }
  EXPECT_EQ(broker.control_line(std::string(2 * control::kMaxRequest, 'x')), "");
  EXPECT_EQ(broker.control_line(std::string(60000, '[')).substr(0, 11), R"({"error":"a)");
  EXPECT_EQ(broker.stats()["ok"], true);
}

TEST(HostileControl, ChangesOfTheWrongShapeAreRefusedAndChangeNothing) {
  using nlohmann::json;
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  const Answer client = broker.hello();
  ASSERT_TRUE(client.welcome);
  const json before = broker.ask({{"request", "policy"}});
  const std::string deep = std::string(30'000, '.');
  for (const json& request : std::vector<json>{
           {{"request", "set"}},
           {{"request", "set"}, {"session", 1}, {"settings", 7}},
           {{"request", "set"}, {"session", 1}, {"settings", {"weight"}}},
           {{"request", "set"}, {"session", 1}, {"settings", {{"weight", 7}}}},
           {{"request", "set"}, {"session", "1"}, {"settings", {{"weight", "7"}}}},
           {{"request", "set"}, {"session", 99}, {"settings", {{"weight", "7"}}}},
           {{"request", "set"}, {"session", 1}, {"settings", {{"weight", "7"}}}, {"save", "yes"}},
           {{"request", "set"}, {"session", 1}, {"settings", {{"weight.x", "7"}}}},
           {{"request", "set"}, {"target", "class"}, {"name", ""}, {"settings", {{"weight", "7"}}}},
           {{"request", "set"}, {"target", "class"}, {"name", "a: b\n"}, {"settings", {{"weight", "7"}}}},
           {{"request", "set"}, {"target", "rule"}, {"name", "r"}, {"settings", {{deep, "7"}}}},
           {{"request", "set"}, {"target", "rule"}, {"name", "r"}, {"settings", {{"match.uid", deep}}}},
           {{"request", "set"}, {"target", "device"}, {"name", 7}, {"settings", {{"prestart", "7"}}}},
           {{"request", "set"}, {"target", "limits"}, {"settings", {{"clients", "]["}}}},
           {{"request", "pause"}},
           {{"request", "pause"}, {"pid", -1}},
           {{"request", "kill"}, {"session", json::array()}},
           {{"request", "quarantine"}, {"uid", "root"}, {"executable", "/x"}},
           {{"request", "quarantine"}, {"uid", 0}, {"executable", 7}},
           {{"request", "quarantine"}, {"session", 1}, {"for", "-1s"}},
           {{"request", "quarantine"}, {"session", 1}, {"why", std::string(1000, 'x')}},
           {{"request", "release"}, {"session", 1}}}) {
    const json answer = broker.ask(request);
    ASSERT_TRUE(answer.is_object()) << request;
    EXPECT_EQ(answer["ok"], false) << request;
    EXPECT_NE(answer["error"], "") << request;
  }
  EXPECT_EQ(broker.ask({{"request", "policy"}}), before);
  const json stats = broker.stats()["clients"][0];
  EXPECT_EQ(stats["weight"], 100);
  EXPECT_EQ(stats["state"], "running");
}

TEST(HostileControl, ManyRequestsAtOnceAreAnsweredOneByOne) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  constexpr std::size_t requests = 500;
  std::string text;
  for (std::size_t i = 0; i + 1 < requests; ++i) text += "{\"request\":\"version\"}\n";
  text += "{\"request\":\"devices\"}\n";
  const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  broker.control_path().copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  std::string answers;
  std::array<char, 65536> chunk{};
  while (std::count(answers.begin(), answers.end(), '\n') < static_cast<std::ptrdiff_t>(requests)) {
    const ssize_t size = recv(fd.get(), chunk.data(), chunk.size(), 0);
    ASSERT_GT(size, 0);
    answers.append(chunk.data(), static_cast<std::size_t>(size));
  }
  EXPECT_NE(answers.find("\"devices\""), std::string::npos);
}

TEST(HostileControl, ConnectionsAreBounded) {
  const BrokerProcess broker("ok", "limits: {control_connections: 4}\n");
  ASSERT_TRUE(broker.wait_until_up());
  const std::size_t before = broker.open_descriptors();
  {
    std::vector<UniqueFd> held;
    for (int i = 0; i < 100; ++i) {
      UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      broker.control_path().copy(address.sun_path, sizeof address.sun_path - 1);
      ASSERT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
      held.push_back(std::move(fd));
    }
    EXPECT_TRUE(eventually([&] { return broker.open_descriptors() <= before + 5; }));
  }
  EXPECT_TRUE(eventually([&] { return broker.stats().is_object(); }));
}

TEST(Control, MineShowsOnlyDescendantsOfTheAsker) {
  const BrokerProcess broker;
  ASSERT_TRUE(broker.wait_until_up());
  const Answer client = broker.hello();
  ASSERT_TRUE(client.welcome);
  EXPECT_EQ(broker.ask({{"request", "stats"}, {"mine", true}})["clients"].size(), 1U);
  int result[2];
  ASSERT_EQ(pipe(result), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto seen = broker.ask({{"request", "stats"}, {"mine", true}})["clients"].size();
    const char answer = seen == 0 ? 'y' : 'n';
    _exit(write(result[1], &answer, 1) == 1 ? 0 : 1);
  }
  char answer = 0;
  ASSERT_EQ(read(result[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'y') << "a client that is not below the asking process must not be listed";
  close(result[0]);
  close(result[1]);
}

}  // namespace
}  // namespace vgpu::daemon::testing
