#include "daemon/policy/policy.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "daemon/config/load.hpp"
#include "daemon/policy/peer.hpp"

namespace vgpu::daemon {
namespace {

Config rules(const std::string& text) {
  return parse_config("classes: {default: {}, high: {weight: 300}}\nrules:\n" + text, "p.yaml").value();
}

Identity someone() {
  Identity who;
  who.pid = 10;
  who.uid = 1000;
  who.gid = 100;
  who.groups = {27, 44};
  who.executable = "/usr/bin/python3.11";
  who.cgroup = "/user.slice/user-1000.slice/session-2.scope";
  who.unit = "session-2.scope";
  return who;
}

std::string class_for(const std::string& rule, const Identity& who) {
  const Config config = rules(rule);
  const auto placement = place_client(config, who);
  return placement ? placement->client_class.name : "refused: " + placement.error();
}

TEST(Policy, NoRuleMeansTheDefaultClass) {
  EXPECT_EQ(class_for("", someone()), "default");
}

TEST(Policy, EachConditionMatchesAndFails) {
  EXPECT_EQ(class_for("- {match: {uid: [5, 1000]}, class: high}", someone()), "high");
  EXPECT_EQ(class_for("- {match: {uid: 5}, class: high}", someone()), "default");
  EXPECT_EQ(class_for("- {match: {gid: 44}, class: high}", someone()), "high");
  EXPECT_EQ(class_for("- {match: {gid: 100}, class: high}", someone()), "high");
  EXPECT_EQ(class_for("- {match: {gid: 45}, class: high}", someone()), "default");
  EXPECT_EQ(class_for("- {match: {executable: '/usr/bin/python*'}, class: high}", someone()), "high");
  EXPECT_EQ(class_for("- {match: {executable: /usr/bin/perl}, class: high}", someone()), "default");
  EXPECT_EQ(class_for("- {match: {unit: 'session-*.scope'}, class: high}", someone()), "high");
  EXPECT_EQ(class_for("- {match: {unit: ollama.service}, class: high}", someone()), "default");
  EXPECT_EQ(class_for("- {match: {cgroup: '/user.slice/*'}, class: high}", someone()), "high");
}

TEST(Policy, AllConditionsMustHoldTogether) {
  EXPECT_EQ(class_for("- {match: {uid: 1000, gid: 45}, class: high}", someone()), "default");
}

TEST(Policy, FirstMatchingRuleWins) {
  EXPECT_EQ(class_for("- {match: {uid: 1000}, reject: true}\n- {class: high}", someone()),
            "refused: the rule in line 3 of p.yaml refuses this client");
  EXPECT_EQ(class_for("- {class: high}\n- {match: {uid: 1000}, reject: true}", someone()), "high");
}

TEST(Policy, UnreadableExecutableMatchesNoPattern) {
  Identity who = someone();
  who.executable.clear();
  EXPECT_EQ(class_for("- {match: {executable: '*'}, class: high}", who), "default");
}

TEST(Peer, UnitIsTheInnermostOfTheCgroup) {
  EXPECT_EQ(unit_of_cgroup("/system.slice/ollama.service"), "ollama.service");
  EXPECT_EQ(unit_of_cgroup("/user.slice/user-1.slice/user@1.service/app.slice/x.service/sub"), "x.service");
  EXPECT_EQ(unit_of_cgroup("/"), "");
  EXPECT_EQ(unit_of_cgroup(""), "");
  EXPECT_EQ(unit_of_cgroup("/.service"), "");
}

TEST(Peer, IdentifiesTheConnectedProcessAndSeesItsEnd) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
  const auto self = identify_peer(ends[0]);
  ASSERT_TRUE(self) << self.error();
  EXPECT_EQ(self->identity.pid, getpid());
  EXPECT_EQ(self->identity.uid, getuid());
  EXPECT_NE(self->identity.executable.find("policy"), std::string::npos);
  ASSERT_FALSE(self->identity.ancestors.empty());
  EXPECT_EQ(self->identity.ancestors.front(), getppid());
  pollfd entry{self->pidfd.get(), POLLIN, 0};
  EXPECT_EQ(poll(&entry, 1, 0), 0);
  close(ends[0]);
  close(ends[1]);
}

TEST(Peer, ProcessThatHasEndedIsNotIdentified) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  int handoff[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, handoff), 0);
  // SO_PEERCRED of a socketpair is its creator's, so the pair must be made by the process that ends.
  const pid_t child = fork();
  if (child == 0) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) _exit(1);
    char byte = 0;
    iovec vector{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    __builtin_memcpy(CMSG_DATA(header), &pair[0], sizeof(int));
    _exit(sendmsg(handoff[1], &message, 0) == 1 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  char byte = 0;
  iovec vector{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ASSERT_EQ(recvmsg(handoff[0], &message, 0), 1);
  int received = -1;
  __builtin_memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
  EXPECT_FALSE(identify_peer(received));
  for (const int fd : {received, ends[0], ends[1], handoff[0], handoff[1]}) close(fd);
}

}  // namespace
}  // namespace vgpu::daemon
