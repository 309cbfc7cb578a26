// Device resources and their descriptions as the driver made them. They hold what may be the driver's own
// pointers, so they stay here; the client gets copies with a number in place of that. Splits nothing itself.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vgpu::worker {

/// One thread.
class GreenResources {
 public:
  /// Keeps a resource and fills in what the client gets instead.
  CUresult give(const CUdevResource& resource, CUdevResource& out);
  /// The resource of such a number, nullptr for none; valid until the next give().
  const CUdevResource* find(std::uint64_t token) const {
    return token != 0 && token <= resources_.size() ? &resources_[token - 1] : nullptr;
  }

  bool may_add_description() const { return descriptions_.size() < most; }
  /// Keeps a description; its number.
  std::uint64_t add(CUdevResourceDesc description);
  /// The description of such a number; false for none.
  bool description(std::uint64_t number, CUdevResourceDesc& out) const;

 private:
  static constexpr std::size_t most = 1u << 14;             // of a session: nobody takes one back
  static constexpr std::uint64_t description_base = 0x100;  // their numbers are no null pointers

  std::vector<CUdevResource> resources_;         // by number, from 1
  std::vector<CUdevResourceDesc> descriptions_;  // the same
};

}  // namespace vgpu::worker
