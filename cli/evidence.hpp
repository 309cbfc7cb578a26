// The judgement of `verify`: from what was seen of a program, step by step, whether its work reached the
// device. Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cli/launcher.hpp"

namespace vgpu::cli {

// What was seen of one program and its children.
struct Evidence {
  Ending ending;
  std::string expected_library;             // the client library that should be loaded
  std::vector<std::string> cuda_libraries;  // each libcuda that was loaded
  std::uint64_t connections = 0;            // clients that vgpud admitted
  std::uint64_t refused = 0;                // and refused
  std::string refusal;                      // why, the first time
  // While the program ran, perhaps of others: connections that were turned away before it was known whose
  // they are, and clients that have ended and whose figures vgpud had no room to keep.
  std::uint64_t turned_away = 0, forgotten = 0;
  bool devices_hidden = false;  // CUDA_VISIBLE_DEVICES hides all from it
  std::string device;
  std::uint64_t allocations = 0, memory_peak = 0;
  std::uint64_t modules = 0;
  std::uint64_t launches = 0;  // kernels and graphs
  std::uint64_t kernel_ns = 0;
  std::uint64_t bytes_to_device = 0, bytes_from_device = 0;
  std::uint64_t records = 0, waited_calls = 0, doorbells = 0;
  // Of a guest's link to its host; records 0: no guest.
  std::uint64_t link_records = 0, link_doorbells = 0, link_bytes_out = 0, link_bytes_in = 0,
                latency_p50_ns = 0;
  std::uint64_t errors = 0, unsupported = 0, sticky_error = 0;
  std::uint64_t worker_failures = 0;

  // Adds the figures of one client as vgpud reports it.
  void add_client(const nlohmann::json& client);
  // Counts that the program or a child of it was refused, and why.
  void add_refusal(const std::string& sentence);
};

struct Verdict {
  bool verified = false;
  std::string report;  // the steps, and the last line with VERIFIED or NOT VERIFIED and the reason
};

// A program is verified when it ended with status 0, used vgpud's library, was admitted, and kernels of it
// were executed on the device, which took measured time, without a fault.
[[nodiscard]] Verdict judge(const Evidence& evidence);

}  // namespace vgpu::cli
