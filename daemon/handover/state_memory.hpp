// A small memfd that holds one value, so that a vgpud that is killed in the middle of a change leaves either
// the old or the new one. Kept in the descriptor store beside the descriptors that the value speaks of. Knows
// bytes, not their meaning.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {

// Two slots, written in turn; the one with the higher sequence number, which is written last, is the value.
// Belongs to one thread. Errors are sentences.
class StateMemory {
 public:
  static constexpr std::size_t max_bytes = std::size_t{256} << 10U;

  // A new, empty one.
  [[nodiscard]] static tl::expected<StateMemory, std::string> create(const char* name);
  // One that an earlier vgpud made: takes `fd`, checks its size and header.
  [[nodiscard]] static tl::expected<StateMemory, std::string> open(UniqueFd fd);

  [[nodiscard]] int fd() const { return fd_.get(); }
  // The value last written; an error when none was, or when it is damaged.
  [[nodiscard]] tl::expected<std::vector<std::uint8_t>, std::string> read() const;
  [[nodiscard]] tl::expected<void, std::string> write(std::span<const std::uint8_t> value);

 private:
  explicit StateMemory(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

}  // namespace vgpu::daemon
