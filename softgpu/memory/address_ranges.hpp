// Hands out ranges of an address window. Knows numbers only: it maps, touches and protects nothing.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace softgpu {

/// Free ranges of [base, base+size), handed out in turn (next fit), so that a freed range stays a hole for as
/// long as the window allows and a use after free is caught. Not thread-safe.
class AddressRanges {
 public:
  AddressRanges(std::uint64_t base, std::uint64_t size);

  /// A range of `bytes` at a multiple of `align` (a power of two); nothing when no hole is large enough.
  std::optional<std::uint64_t> take(std::uint64_t bytes, std::uint64_t align);
  /// Exactly [address, address+bytes), if it is free.
  bool take_at(std::uint64_t address, std::uint64_t bytes);
  /// Gives a taken range back; merges it with its free neighbours.
  void give_back(std::uint64_t address, std::uint64_t bytes);

 private:
  using Holes = std::map<std::uint64_t, std::uint64_t>;  // start -> bytes
  std::optional<std::uint64_t> take_from(Holes::iterator hole, std::uint64_t from, std::uint64_t bytes,
                                         std::uint64_t align);
  void cut(Holes::iterator hole, std::uint64_t address, std::uint64_t bytes);

  Holes holes_;
  std::uint64_t cursor_;
};

}  // namespace softgpu
