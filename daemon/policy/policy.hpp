// Decides what class and device a client gets from who it is. Knows rules and identities; never a socket or
// process.
#pragma once

#include <sys/types.h>

#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "daemon/config/config.hpp"

namespace vgpu::daemon {

// Who a client is, as the kernel says (see peer.hpp), never as the client says.
struct Identity {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;     // supplementary
  std::string executable;        // full path; empty where it cannot be read
  std::string program;           // short name for tables
  std::string cgroup;            // path in the unified hierarchy, "/system.slice/ollama.service"
  std::string unit;              // systemd unit of that cgroup, "ollama.service"; empty: none
  std::vector<pid_t> ancestors;  // parent first
};

// What the policy says about a client.
struct Placement {
  ClassConfig client_class;  // the class, with what the rule sets otherwise
  std::string device;        // empty: any of the pool
  std::string pool;          // empty: the first device's
};

// The rule that decides about a client: the first that matches. Null: none does.
[[nodiscard]] const RuleConfig* deciding_rule(const Config& config, const Identity& identity);

// The first rule that matches decides; none: the default class. The error is the sentence for the client and
// the log when a rule rejects it.
[[nodiscard]] tl::expected<Placement, std::string> place_client(const Config& config,
                                                                const Identity& identity);

// True when every condition of the rule holds.
[[nodiscard]] bool matches(const RuleConfig& rule, const Identity& identity);

}  // namespace vgpu::daemon
