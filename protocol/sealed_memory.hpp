// Memory that is handed from process to process as a memfd whose size is fixed for ever: who maps it need not
// fear that the other side takes pages away under the mapping. Knows nothing of what lies in it.
#pragma once

#include <cstdint>
#include <optional>

#include "protocol/unique_fd.hpp"

namespace vgpu {

/// A memfd of `bytes` zeros, sealed against another size and other seals, writable by all who have it. Empty,
/// with the reason in errno, where there is no memory. `name` is for /proc only.
UniqueFd sealed_memory(const char* name, std::uint64_t bytes);

/// The size of a memfd that cannot shrink; nothing for any other descriptor.
std::optional<std::uint64_t> sealed_bytes(int fd);

}  // namespace vgpu
