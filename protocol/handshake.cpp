#include "protocol/handshake.hpp"

#include <cstdio>
#include <cstring>

#include "vgpu/call_ids.hpp"

namespace vgpu {
namespace {

std::string version_problem(std::uint32_t version) {
  char text[200];
  std::snprintf(
      text, sizeof text,
      "the client library speaks handshake version %u, this vgpud speaks %u: install both from one build",
      version, handshake_version);
  return text;
}

}  // namespace

std::uint64_t protocol_hash() {
  return protocol_digest;
}

std::string hello_problem(const Hello& hello) {
  if (hello.magic != hello_magic) return "this is not a vgpud client";
  if (hello.version != handshake_version) return version_problem(hello.version);
  if (hello.protocol_hash != protocol_hash()) {
    char text[200];
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

std::string first_words_problem(std::span<const std::byte> message) {
  FirstWords words{};
  if (message.size() < sizeof words) return {};
  std::memcpy(&words, message.data(), sizeof words);
  const bool first = words.type == MessageType::hello || words.type == MessageType::status_query;
  return first && words.magic == hello_magic && words.version != handshake_version
             ? version_problem(words.version)
             : std::string();
}

}  // namespace vgpu
