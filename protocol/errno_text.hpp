#pragma once
// The sentence for a failed system call. Never logs.
#include <cerrno>
#include <cstring>
#include <string>

namespace vgpu {

/// "what: reason", with the reason of this thread's errno.
inline std::string errno_text(const std::string& what) {
  return what + ": " + std::strerror(errno);
}

}  // namespace vgpu
