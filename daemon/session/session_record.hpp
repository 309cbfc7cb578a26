// What one vgpud writes down of a session for the next: all that is not in descriptors and that the kernel
// does not tell again. CBOR, because paths may hold any bytes. Knows no session's workings; adopting is
// session_manager.hpp's.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "daemon/config/config.hpp"
#include "daemon/metrics/client_stats.hpp"
#include "daemon/metrics/rejections.hpp"
#include "daemon/policy/policy.hpp"
#include "daemon/policy/quarantine.hpp"
#include "daemon/session/session.hpp"
#include "protocol/handshake.hpp"

namespace vgpu::daemon {

struct SessionRecord {
  std::uint64_t session = 0;
  std::string device;                // its name in the configuration
  std::vector<std::string> further;  // the same of those that it has besides
  Identity identity;
  ClassConfig client_class;
  Adjustments adjustments;
  std::int64_t since_ns = 0;  // when it came, CLOCK_MONOTONIC
  bool welcomed = false;
  DeviceReport report;  // its worker's
};

// What a device's figures go on from.
struct DeviceRecord {
  std::string name;
  DeviceFigures past;  // of clients that have ended; counts of all
  std::uint64_t switches = 0;
  std::uint64_t charged_ns = 0;
};

// What the broker as a whole goes on with.
struct BrokerRecord {
  std::uint64_t next_session = 1;
  SessionCounters counters;
  std::vector<QuarantineEntry> quarantined;
  std::vector<Rejection> rejections;  // without their sentences
  std::vector<DeviceRecord> devices;
};

[[nodiscard]] std::vector<std::uint8_t> encode(const SessionRecord& record);
[[nodiscard]] std::vector<std::uint8_t> encode(const BrokerRecord& record);

// The error is a sentence: damaged, or written by a vgpud whose protocol or pages are other than ours.
[[nodiscard]] tl::expected<SessionRecord, std::string> decode_session(std::span<const std::uint8_t> bytes);
[[nodiscard]] tl::expected<BrokerRecord, std::string> decode_broker(std::span<const std::uint8_t> bytes);

}  // namespace vgpu::daemon
