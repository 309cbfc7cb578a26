// Sizes and durations as people write them in vgpud.yaml: "512 MiB", "4G", "250ms", "2min".
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace vgpu::daemon {

// Bytes of a size. Suffixes K, M, G, T (with or without iB) are powers of 1024, KB, MB, GB, TB powers of
// 1000; none means bytes. The error is a sentence for the operator.
[[nodiscard]] tl::expected<std::uint64_t, std::string> parse_size(std::string_view text);

// A duration with its unit: us, ms, s, min, h. A bare 0 needs none.
[[nodiscard]] tl::expected<std::chrono::microseconds, std::string> parse_duration(std::string_view text);

}  // namespace vgpu::daemon
