// MD2 (RFC 1319) and HMAC over it (RFC 2104), for the integrity handshake alone. MD2 is broken as a hash:
// never use it for anything that must be secret. No maintained library in the distribution offers it to a
// thin shared object.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace cudaabi {

using Md2Digest = std::array<std::uint8_t, 16>;

/// The MD2 digest of `message`.
Md2Digest md2(std::span<const std::uint8_t> message);

/// HMAC-MD2 with the block size of 16 bytes that MD2 works on; `secret` is at most one block.
Md2Digest hmac_md2(std::span<const std::uint8_t, 16> secret, std::span<const std::uint8_t> message);

}  // namespace cudaabi
