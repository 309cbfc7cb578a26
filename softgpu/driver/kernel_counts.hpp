// What each kernel has cost so far, by name: for finding the hot ones of a program that knows nothing of us.
//
// One entry a launch, made when the grid has ended; never anything for each instruction. Kernels of the same
// name in several modules count as one. It does not know streams or contexts, and of files only how its own
// table is written.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace softgpu {

struct KernelCount {
  std::string name;
  std::uint64_t launches = 0;
  std::uint64_t busy_ns = 0;  ///< CPU time of all threads that ran its blocks
  std::uint64_t lane_instructions = 0;
};

/// Thread-safe.
class KernelCounts {
 public:
  /// `destination`: the file that save() writes; "-" is standard error.
  explicit KernelCounts(std::string destination) : destination_(std::move(destination)) {}

  void add(std::string_view name, std::uint64_t busy_ns, std::uint64_t lane_instructions);
  /// All kernels, the one that took most time first; equal ones by name.
  std::vector<KernelCount> by_time() const;
  /// by_time() as lines of tab-separated fields below a line that names them.
  void write(std::ostream& out) const;
  /// The same to the destination; a file there is replaced. False when it cannot be written.
  bool save() const;

 private:
  const std::string destination_;
  mutable std::mutex mutex_;
  std::map<std::string, KernelCount, std::less<>> counts_;
};

/// An empty table for the destination that SOFTGPU_KERNELS names, or null: then launches are not counted by
/// kernel.
std::unique_ptr<KernelCounts> wanted_kernel_counts();

}  // namespace softgpu
