// How one process of the software GPU finds a memfd of another of the same user: by pid and descriptor,
// through /proc, which the kernel opens only to whom may look into that process (ptrace(2),
// PTRACE_MODE_READ). Device and inode tell whether it is still the file that was meant. Never: sends
// descriptors, or starts a thread.
#pragma once

#include <cstdint>
#include <optional>

namespace softgpu {

/// Where a memfd is. Plain data that may travel through other processes; whoever uses it believes none of it.
struct SharedFile {
  std::int32_t pid = 0;
  std::int32_t fd = -1;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
};

/// Describes a descriptor of this process; nothing when it is none.
std::optional<SharedFile> describe_file(int fd);

/// Opens the file for reading and writing; -1 when it is not (or no longer) there, or this process may not.
/// The caller closes the descriptor.
int open_file(const SharedFile& file);

}  // namespace softgpu
