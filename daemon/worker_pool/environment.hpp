// The environment of a process to be started: this process's own with some variables set. Starts nothing.
#pragma once

#include <string>
#include <vector>

namespace vgpu::daemon {

/// A null-terminated array as execve takes it; valid while the object lives. Made before a fork, read after
/// it.
class EnvironmentBlock {
 public:
  /// `changes`: NAME=VALUE each; they stand instead of variables of the same name.
  explicit EnvironmentBlock(const std::vector<std::string>& changes);
  EnvironmentBlock(const EnvironmentBlock&) = delete;
  EnvironmentBlock& operator=(const EnvironmentBlock&) = delete;
  [[nodiscard]] char* const* data() const { return pointers_.data(); }

 private:
  std::vector<std::string> variables_;
  std::vector<char*> pointers_;
};

}  // namespace vgpu::daemon
