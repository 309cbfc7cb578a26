// NVIDIA's multi-process service beneath a device's workers: with it kernels of several clients run side by
// side instead of in turns, and a context switch costs nothing. In return the clients of one device share
// faults: an illegal address of one ends the contexts of all (NVIDIA's documentation, "Multi-Process
// Service", on error containment), so an operator chooses it (`sharing: mps`). This part starts and ends
// NVIDIA's control daemon; it never talks to a GPU itself.
#pragma once

#include <memory>
#include <string>
#include <tl/expected.hpp>
#include <vector>

namespace vgpu::daemon {

/// A control daemon for one device, with a folder of its own for its pipes. Belongs to one thread.
class MpsControl {
 public:
  /// Starts `program` (nvidia-cuda-mps-control) in `folder`, which is made (mode 0700) if need be; one that
  /// an earlier broker left running there is taken over. Waits at most 10 s. The error is a sentence.
  static tl::expected<std::unique_ptr<MpsControl>, std::string> start(const std::string& program,
                                                                      const std::string& folder);
  /// Ends the daemon and the servers it started, unless keep() was called.
  ~MpsControl();
  MpsControl(const MpsControl&) = delete;
  MpsControl& operator=(const MpsControl&) = delete;

  /// What a worker needs in its environment to use it, as NAME=VALUE.
  [[nodiscard]] const std::vector<std::string>& environment() const { return environment_; }
  /// The daemon outlives this object: another broker takes it over.
  void keep() { keep_ = true; }

 private:
  MpsControl(std::string program, const std::string& folder);

  std::string program_;
  std::vector<std::string> environment_;
  bool keep_ = false;
};

/// nvidia-cuda-mps-control where NVIDIA's installers put it; empty: it is not there. `root` goes before each
/// path.
[[nodiscard]] std::string find_mps_control(const std::string& root = "");

}  // namespace vgpu::daemon
