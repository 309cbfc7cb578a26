// What the processes of one VM hold of device memory together: a memfd made by the broker, mapped by it and
// by the workers of that VM, of which each has a place. Clients and guests never see it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tl/expected.hpp>

#include "protocol/unique_fd.hpp"

namespace vgpu {

/// The sum of what was charged under a quota never exceeds it, whoever charges at the same moment and however
/// a worker ends. Thread-safe. Unmapped at the end of its life.
class MemoryAccount {
 public:
  static constexpr std::size_t places = 64;

  /// A new, empty account; the descriptor for the workers is put into `fd`. The error is a sentence.
  static tl::expected<std::unique_ptr<MemoryAccount>, std::string> create(UniqueFd& fd);
  /// Maps one received from the broker; does not take `fd`.
  static tl::expected<std::unique_ptr<MemoryAccount>, std::string> attach(int fd);
  ~MemoryAccount();
  MemoryAccount(const MemoryAccount&) = delete;
  MemoryAccount& operator=(const MemoryAccount&) = delete;

  /// Charges `place` with so many bytes; false, and nothing is charged, when all would then hold more than
  /// `quota` (0: none).
  [[nodiscard]] bool charge(std::size_t place, std::uint64_t bytes, std::uint64_t quota);
  void refund(std::size_t place, std::uint64_t bytes);
  /// The worker of that place has gone: it holds nothing.
  void clear(std::size_t place);
  /// What all hold.
  [[nodiscard]] std::uint64_t used() const;

 private:
  struct Shared;
  explicit MemoryAccount(Shared* shared) : shared_(shared) {}
  Shared* shared_;
};

}  // namespace vgpu
