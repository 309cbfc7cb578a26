#include "daemon/config/load.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "daemon/config/quantity.hpp"

namespace vgpu::daemon {
namespace {

std::string errors_of(const std::string& text) {
  const auto result = parse_config(text, "f.yaml");
  std::string all;
  if (!result) {
    for (const ConfigError& error : result.error()) all += error.text() + "\n";
  }
  return all;
}

TEST(ConfigLoad, EmptyFileGivesTheDefaults) {
  const auto config = parse_config("", "f.yaml");
  ASSERT_TRUE(config) << config.error().front().text();
  EXPECT_EQ(config->devices.size(), 1U);
  EXPECT_EQ(config->classes.at("default").weight, 100U);
}

TEST(ConfigLoad, ASecondDocumentIsNotPassedOver) {
  EXPECT_EQ(errors_of("---\nended_clients: 3\n"), "");
  EXPECT_NE(errors_of("ended_clients: 3\n---\nlimits: {clients: 2}\n").find("f.yaml:3:1: a second YAML"),
            std::string::npos);
}

TEST(ConfigLoad, PathsThatNoSocketCanHaveAreMistakes) {
  EXPECT_EQ(errors_of("socket: /" + std::string(106, 'a')), "");
  for (const std::string key : {"socket", "control"}) {
    EXPECT_NE(errors_of(key + ": /" + std::string(107, 'a')).find("longer than 107"), std::string::npos);
  }
}

TEST(ConfigLoad, OversubscriptionIsADevicesOwnAndNotAVmsGuests) {
  EXPECT_EQ(errors_of("devices: [{oversubscribe: {host_limit: none}}]"), "");
  EXPECT_NE(errors_of("devices: [{oversubscribe: {host_limit: 64GiB, stay: 3s}}]").find("stay"),
            std::string::npos);
  EXPECT_NE(errors_of("devices: [{kind: stub, oversubscribe: {host_limit: 64GiB}}]").find("not in the VM"),
            std::string::npos);
}

TEST(ConfigLoad, KeepsNoMoreHostMemoryReadyThanMayBeUsed) {
  const auto config = parse_config(
      "devices: [{oversubscribe: {host_limit: 64GiB, reserve: 16GiB}}, {oversubscribe: {host_limit: 1GiB}},\n"
      "          {oversubscribe: {host_limit: 1GiB, reserve: none}}]",
      "f.yaml");
  ASSERT_TRUE(config) << config.error().front().text();
  EXPECT_EQ(config->devices[0].oversubscribe.reserve, 16ULL << 30U);
  EXPECT_FALSE(config->devices[1].oversubscribe.reserve);
  EXPECT_FALSE(config->devices[2].oversubscribe.reserve);
  EXPECT_EQ(errors_of("devices: [{oversubscribe: {host_limit: 1GiB, reserve: 1GiB}}]"), "");
  for (const char* wrong : {"{host_limit: 1GiB, reserve: 1025MiB}", "{reserve: 1GiB}",
                            "{host_limit: none, reserve: 1GiB}", "{host_limit: 1GiB, reserve: 4KiB}",
                            "{host_limit: 1GiB, reserve: 0}", "{host_limit: 1GiB, reserve: all}"}) {
    EXPECT_NE(errors_of("devices: [{oversubscribe: " + std::string(wrong) + "}]").find("'reserve'"),
              std::string::npos)
        << wrong;
  }
}

TEST(ConfigLoad, ReadsEveryPart) {
  const auto config = parse_config(R"(
socket: /tmp/a.sock
control: /tmp/b.sock
log: {level: debug, target: stderr}
limits: {clients: 3, handshake_timeout: 250ms}
scheduler: {quantum: 2ms}
devices:
  - {name: a, kind: software, prestart: 2}
  - {name: b, kind: cuda, ordinal: 1, driver: /opt/libcuda.so.1, oversubscribe: {host_limit: 64GiB, minimum_residence: 3s, context_memory: 500MiB}}
classes:
  low: {weight: 10, memory_quota: 512MiB, max_clients: 4}
  high: {weight: 300}
default_class: low
rules:
  - {match: {uid: [0, 1000], executable: "/usr/bin/*"}, class: high, device: b}
  - match: {gid: root, unit: ollama.service, cgroup: /user.slice/*}
    reject: true
)",
                                   "f.yaml");
  ASSERT_TRUE(config) << config.error().front().text();
  EXPECT_EQ(config->socket, "/tmp/a.sock");
  EXPECT_EQ(config->limits.handshake_timeout, std::chrono::milliseconds(250));
  EXPECT_EQ(config->scheduler.policy.quantum, std::chrono::milliseconds(2));
  EXPECT_EQ(config->devices[1].kind, DeviceKind::cuda);
  EXPECT_EQ(config->devices[1].ordinal, 1U);
  EXPECT_FALSE(config->devices[0].oversubscribe.host_limit);
  EXPECT_EQ(config->devices[1].oversubscribe.host_limit, 64ULL << 30U);
  EXPECT_EQ(config->devices[1].oversubscribe.minimum_residence, std::chrono::seconds(3));
  EXPECT_EQ(config->devices[1].oversubscribe.idle_after, std::chrono::milliseconds(200));
  EXPECT_EQ(config->devices[1].oversubscribe.context_memory, 500ULL << 20U);
  EXPECT_EQ(config->classes.at("low").memory_quota, 512ULL << 20U);
  EXPECT_FALSE(config->classes.at("high").memory_quota.has_value());
  ASSERT_EQ(config->rules.size(), 2U);
  EXPECT_EQ(config->rules[0].uids, (std::vector<uid_t>{0, 1000}));
  EXPECT_EQ(config->rules[1].gids, (std::vector<gid_t>{0}));
  EXPECT_TRUE(config->rules[1].reject);
  EXPECT_EQ(config->rules[1].place.line, 16);
}

TEST(ConfigLoad, PoliciesPoolsAndLimitsAreRead) {
  const auto config = parse_config(
      "devices: [{name: a, policy: time_slice, pool: x}, {name: b}]\n"
      "classes:\n"
      "  default: {priority: high, deadline: 20ms, max_clients_per_user: 3, launch_rate: 100, bandwidth: "
      "2MiB,\n"
      "            queue_depth: 4, window: 300us, watchdog: 400ms, quarantine_after: 2, quarantine_time: 0,\n"
      "            devices: 2}\n"
      "scheduler: {linger: 100us, aging: 0, slice: 4ms, window: 2ms, anticipate: true}\n"
      "rules: [{match: {uid: 0}, class: default, pool: x}]\n",
      "f.yaml");
  ASSERT_TRUE(config);
  EXPECT_EQ(config->devices[0].policy, PolicyKind::time_slice);
  EXPECT_EQ(config->devices[0].pool, "x");
  EXPECT_FALSE(config->devices[1].policy);
  EXPECT_EQ(config->devices[1].pool, "default");
  const ClassConfig& read = config->classes.at("default");
  EXPECT_EQ(read.priority, Priority::high);
  EXPECT_EQ(read.deadline, std::chrono::milliseconds(20));
  EXPECT_EQ(read.max_clients_per_user, 3U);
  EXPECT_EQ(read.launch_rate, 100U);
  EXPECT_EQ(read.bandwidth, 2ULL << 20U);
  EXPECT_EQ(read.queue_depth, 4U);
  EXPECT_EQ(read.window, std::chrono::microseconds(300));
  EXPECT_EQ(read.watchdog, std::chrono::milliseconds(400));
  EXPECT_EQ(read.quarantine_after, 2U);
  EXPECT_EQ(read.quarantine_time.count(), 0);
  EXPECT_EQ(read.devices, 2U);
  EXPECT_EQ(config->scheduler.policy.linger, std::chrono::microseconds(100));
  EXPECT_EQ(config->scheduler.policy.aging.count(), 0);
  EXPECT_TRUE(config->scheduler.policy.anticipate);
  EXPECT_EQ(config->scheduler.policy.slice, std::chrono::milliseconds(4));
  EXPECT_EQ(config->scheduler.window, std::chrono::milliseconds(2));
  EXPECT_EQ(config->rules[0].pool, "x");
}

TEST(ConfigLoad, PoolsMustHaveADeviceAndARuleNamesOneOfBoth) {
  EXPECT_NE(errors_of("rules: [{match: {uid: 0}, class: default, pool: nowhere}]\n")
                .find("pool 'nowhere' has no device"),
            std::string::npos);
  EXPECT_NE(
      errors_of("rules: [{match: {uid: 0}, class: default, pool: default, device: gpu0}]\n").find("not both"),
      std::string::npos);
  EXPECT_NE(errors_of("devices: [{policy: nonsense}]\n")
                .find("must be one of: fair, fifo, deadline, time_slice, turns"),
            std::string::npos);
}

TEST(ConfigLoad, UnknownKeyIsAnErrorWithItsPlace) {
  EXPECT_EQ(errors_of("classes:\n  default:\n    wieght: 3\n"),
            "f.yaml:3:5: unknown key 'wieght' in class 'default' (known: weight, memory_quota, priority, "
            "deadline, max_clients, max_clients_per_user, launch_rate, bandwidth, queue_depth, window, "
            "watchdog, quarantine_after, quarantine_time, arena, devices)\n");
}

TEST(ConfigLoad, AClientMayHaveAsManyDevicesAsTheProtocolHolds) {
  EXPECT_EQ(parse_config("classes: {default: {}}\n", "f.yaml")->classes.at("default").devices, 8U);
  EXPECT_NE(errors_of("classes: {default: {devices: 9}}\n"), "");
  EXPECT_NE(errors_of("classes: {default: {devices: 0}}\n"), "");
}

TEST(ConfigLoad, SyntaxErrorHasItsPlace) {
  EXPECT_EQ(errors_of("log:\n  level: [info\n").substr(0, 9), "f.yaml:3:");
}

TEST(ConfigLoad, SeveralMistakesAreAllReported) {
  const std::string errors = errors_of("limits: {clients: 0}\nsocket: relative\nlog: {level: loud}\n");
  EXPECT_NE(errors.find("f.yaml:1:19: 'clients' of 'limits' must be a whole number from 1 to 4096, not '0'"),
            std::string::npos)
      << errors;
  EXPECT_NE(errors.find("f.yaml:2:9: 'socket' of the configuration must be an absolute path"),
            std::string::npos);
  EXPECT_NE(errors.find("f.yaml:3:14: 'level' must be one of: debug, info, warning, error"),
            std::string::npos);
}

TEST(ConfigLoad, RulesMustPointAtWhatExists) {
  EXPECT_EQ(errors_of("rules:\n  - class: gold\n"), "f.yaml:2:12: there is no class 'gold'\n");
  EXPECT_EQ(errors_of("rules:\n  - class: default\n    device: gpu7\n"),
            "f.yaml:3:13: there is no device 'gpu7'\n");
  EXPECT_EQ(errors_of("rules:\n  - match: {uid: 3}\n"),
            "f.yaml:2:5: a rule must say either 'class: NAME' or 'reject: true'\n");
  EXPECT_EQ(errors_of("rules:\n  - match: {uid: no-such-user-here}\n    class: default\n"),
            "f.yaml:2:18: there is no user 'no-such-user-here' on this system\n");
}

TEST(ConfigLoad, RepeatedKeysAndNamesAreErrors) {
  EXPECT_EQ(errors_of("group: a\ngroup: b\n"), "f.yaml:2:1: 'group' stands twice in the configuration\n");
  EXPECT_EQ(errors_of("devices: [{name: x}, {name: x}]\n"), "f.yaml:1:22: two devices are named 'x'\n");
}

TEST(ConfigLoad, MissingDefaultClassIsAnError) {
  EXPECT_EQ(errors_of("classes: {a: {}}\n"),
            "f.yaml:1:1: there is no class 'default', which clients get that no rule matches\n");
}

TEST(ConfigLoad, MissingFileIsAnErrorThatNamesIt) {
  const auto result = load_config("/nonexistent/vgpud.yaml");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().front().text(),
            "/nonexistent/vgpud.yaml: cannot read the configuration: No such file or directory");
}

TEST(ConfigLoad, DeviceFileIsReadOnlyUpToTheLimit) {
  EXPECT_FALSE(load_config("/dev/zero"));
}

// The main document and one drop-in.
tl::expected<Config, ConfigErrors> merged(const std::string& main, const std::string& drop_in) {
  const std::array<ConfigDocument, 2> documents{{{"f.yaml", main}, {"d/50-cli.yaml", drop_in, false}}};
  return parse_config(documents);
}

TEST(ConfigDropIns, AddToWhatStandsBefore) {
  const auto config = merged(
      "devices: [{name: a, kind: software}, {name: b}]\n"
      "classes: {default: {weight: 10, max_clients: 3}}\n"
      "rules: [{name: first, match: {uid: 1}, class: default}, {match: {uid: 2}, class: default}]\n",
      "devices: [{name: b, prestart: 4}]\n"
      "classes: {default: {weight: 20}, gold: {}}\n"
      "rules: [{match: {uid: 3}, class: gold}, {name: first, class: gold, set: {weight: 5}}]\n");
  ASSERT_TRUE(config) << config.error().front().text();
  EXPECT_EQ(config->file, "f.yaml");
  ASSERT_EQ(config->devices.size(), 2U);
  EXPECT_EQ(config->devices[0].kind, DeviceKind::software);
  EXPECT_EQ(config->devices[1].prestart, 4U);
  EXPECT_EQ(config->classes.at("default").weight, 20U);
  EXPECT_EQ(config->classes.at("default").max_clients, 3U);
  ASSERT_EQ(config->rules.size(), 3U);
  EXPECT_EQ(config->rules[0].name, "50-cli-rule1");
  EXPECT_EQ(config->rules[1].name, "first");
  EXPECT_EQ(config->rules[1].class_name, "gold");
  EXPECT_EQ(config->rules[1].uids, std::vector<uid_t>{1});
  EXPECT_EQ(config->rules[1].settings, (Settings{{"weight", "5"}}));
  EXPECT_EQ(config->rules[2].name, "rule2");
}

TEST(ConfigDropIns, MistakesNameTheFileTheyStandIn) {
  const auto config = merged("rules: [{match: {uid: 1}, class: gone}]\n",
                             "classes:\n  default: {wieght: 1}\nrules: [{name: x, class: lost}]\n");
  ASSERT_FALSE(config);
  ASSERT_EQ(config.error().size(), 3U);
  EXPECT_EQ(config.error()[0].text().rfind("d/50-cli.yaml:2:13: unknown key 'wieght' in class 'default'", 0),
            0U)
      << config.error()[0].text();
  EXPECT_EQ(config.error()[1].text(), "d/50-cli.yaml:3:26: there is no class 'lost'");
  EXPECT_EQ(config.error()[2].text(), "f.yaml:1:34: there is no class 'gone'");
}

TEST(ConfigDropIns, AreReadFromTheirFolderInTheOrderOfTheirNames) {
  namespace fs = std::filesystem;
  std::string folder = (fs::temp_directory_path() / "vgpud-config-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string file = folder + "/my.yaml";
  std::ofstream(file) << "ended_clients: 1\nlimits: {clients: 7}\n";
  fs::create_directory(folder + "/my.d");
  std::ofstream(folder + "/my.d/90-b.yaml") << "ended_clients: 3\n";
  std::ofstream(folder + "/my.d/10-a.yaml") << "ended_clients: 2\n";
  std::ofstream(folder + "/my.d/95-c.yaml.off") << "rubbish: 1\n";
  const auto config = load_config(file);
  ASSERT_TRUE(config) << config.error().front().text();
  EXPECT_EQ(config->ended_clients, 3U);
  EXPECT_EQ(config->limits.clients, 7U);
  std::ofstream(folder + "/my.d/99-d.yaml") << "ended_clients: many\n";
  const auto wrong = load_config(file);
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().front().file, folder + "/my.d/99-d.yaml");
  fs::remove_all(folder);
}

TEST(ConfigDropIns, ChangeOnlyTheConditionsThatTheySay) {
  const std::string main =
      "rules: [{name: no-miners, match: {executable: '*/miner', unit: a.service}, reject: true}]\n";
  const auto narrowed = merged(main, "rules: [{name: no-miners, match: {uid: 7}}]\n");
  ASSERT_TRUE(narrowed) << narrowed.error().front().text();
  EXPECT_EQ(narrowed->rules[0].uids, std::vector<uid_t>{7});
  EXPECT_EQ(narrowed->rules[0].executables, std::vector<std::string>{"*/miner"});
  EXPECT_EQ(narrowed->rules[0].units, std::vector<std::string>{"a.service"});
  const auto other =
      merged(main, "rules: [{name: no-miners, match: {executable: ['*/a', '*/b'], unit: []}}]\n");
  ASSERT_TRUE(other) << other.error().front().text();
  EXPECT_EQ(other->rules[0].executables, (std::vector<std::string>{"*/a", "*/b"}));
  EXPECT_TRUE(other->rules[0].units.empty());
  // A condition of no values in a new rule would match nobody or everybody: which, nobody can know.
  EXPECT_FALSE(merged("", "rules: [{name: fresh, match: {unit: []}, class: default}]\n"));
}

TEST(ConfigLoad, AnEmptyNameIsNoName) {
  EXPECT_NE(errors_of("rules: [{name: '', class: default}]\n").find("a rule's name may hold"),
            std::string::npos);
}

// The mistake that a file of these bytes is.
std::string mistake_of(const std::string& bytes) {
  namespace fs = std::filesystem;
  std::string folder = (fs::temp_directory_path() / "vgpud-bytes-XXXXXX").string();
  EXPECT_NE(mkdtemp(folder.data()), nullptr);
  std::ofstream(folder + "/f.yaml") << bytes;
  const auto config = load_config(folder + "/f.yaml");
  fs::remove_all(folder);
  return config ? std::string() : config.error().front().message;
}

TEST(ConfigFiles, MustBeText) {
  using namespace std::string_literals;
  for (const auto& good : {""s, "# \xC3\xA4 \xE2\x82\xAC \xF0\x9F\x98\x80\n"s})
    EXPECT_EQ(mistake_of(good), "");
  for (const auto& bad : {"\xFF\xFE\0"s, "# \0\n"s, "# \xC3"s, "# \xC0\x80\n"s, "# \xED\xA0\x80\n"s,
                          "# \xF4\x90\x80\x80\n"s, "# \xE0\x80\x80\n"s}) {
    EXPECT_NE(mistake_of(bad).find("not UTF-8 text"), std::string::npos);
  }
}

TEST(ConfigFiles, APipeIsNotWaitedFor) {
  namespace fs = std::filesystem;
  std::string folder = (fs::temp_directory_path() / "vgpud-pipe-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  ASSERT_EQ(mkfifo((folder + "/f.yaml").c_str(), 0600), 0);
  const auto config = load_config(folder + "/f.yaml");
  fs::remove_all(folder);
  ASSERT_FALSE(config);
  EXPECT_NE(config.error().front().message.find("no regular file"), std::string::npos);
}

TEST(ConfigSettings, ChangeAClassByTheKeysOfTheFile) {
  ClassConfig value;
  ASSERT_TRUE(apply_settings(value, {{"weight", "7"}, {"memory_quota", "2GiB"}}));
  EXPECT_EQ(value.weight, 7U);
  EXPECT_EQ(value.memory_quota, 2ULL << 30U);
  ASSERT_TRUE(apply_settings(value, {{"memory_quota", "none"}}));
  EXPECT_FALSE(value.memory_quota);
  const auto wrong = apply_settings(value, {{"weight", "8"}, {"wieght", "9"}});
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().rfind("unknown key 'wieght' in a class (known: weight,", 0), 0U) << wrong.error();
  EXPECT_EQ(value.weight, 7U);
}

TEST(ConfigQuantity, SizesAndDurations) {
  EXPECT_EQ(*parse_size("4GiB"), 4ULL << 30U);
  EXPECT_EQ(*parse_size("4 GB"), 4'000'000'000ULL);
  EXPECT_EQ(*parse_size("17"), 17U);
  EXPECT_FALSE(parse_size("4Gigs"));
  EXPECT_FALSE(parse_size("-1"));
  EXPECT_FALSE(parse_size("99999999999TiB"));
  EXPECT_EQ(*parse_duration("2s"), std::chrono::seconds(2));
  EXPECT_EQ(*parse_duration("0"), std::chrono::seconds(0));
  EXPECT_FALSE(parse_duration("5"));
  EXPECT_FALSE(parse_duration(""));
}

}  // namespace
}  // namespace vgpu::daemon
