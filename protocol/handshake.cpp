#include "protocol/handshake.hpp"

#include <cstdio>

#include "vgpu/call_ids.hpp"

namespace vgpu {

std::uint64_t protocol_hash() {
  return protocol_digest;
}

std::string hello_problem(const Hello& hello) {
  if (hello.magic != hello_magic) return "this is not a vgpud client";
  char text[200];
  if (hello.version != handshake_version) {
    std::snprintf(
        text, sizeof text,
        "the client library speaks handshake version %u, this vgpud speaks %u: install both from one build",
        hello.version, handshake_version);
    return text;
  }
  if (hello.protocol_hash != protocol_hash()) {
    std::snprintf(
        text, sizeof text,
        "the client library was built with protocol %016llx, this vgpud with %016llx: install both from one "
        "build",
        static_cast<unsigned long long>(hello.protocol_hash),
        static_cast<unsigned long long>(protocol_hash()));
    return text;
  }
  return {};
}

}  // namespace vgpu
