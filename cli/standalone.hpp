// A private vgpud for one program: started in a folder of its own, ended and removed with the object. Needs
// neither root nor systemd.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <tl/expected.hpp>

#include "protocol/handshake.hpp"

namespace vgpu::cli {

// Which devices a private vgpud has: one or, where the program asks for one by CUDA_VISIBLE_DEVICES and there
// are `cards` NVIDIA cards that may be meant, each card up to it, so that the variable counts as natively.
struct PrivateDevices {
  unsigned count = 1;
  unsigned first = 0;  // the one that must be ready before the program starts
};
[[nodiscard]] PrivateDevices private_devices(const std::string& device_kind, const DeviceWish& wish,
                                             unsigned cards);

// Owns the broker's process and its folder. The broker ends also when this process is killed.
class StandaloneBroker {
 public:
  // Starts one for `device_kind` ("auto", "software", "cuda") and waits until its device can serve. With
  // `verbose` its log goes to standard error. The error is a sentence with the broker's own words.
  [[nodiscard]] static tl::expected<std::unique_ptr<StandaloneBroker>, std::string> start(
      const std::string& device_kind, bool verbose);
  ~StandaloneBroker();
  StandaloneBroker(const StandaloneBroker&) = delete;
  StandaloneBroker& operator=(const StandaloneBroker&) = delete;

  [[nodiscard]] std::string socket() const { return folder_ + "/vgpud.sock"; }
  [[nodiscard]] std::string control() const { return folder_ + "/control.sock"; }

 private:
  StandaloneBroker() = default;
  [[nodiscard]] std::string write_config(const std::string& device_kind, const PrivateDevices& devices) const;
  [[nodiscard]] tl::expected<void, std::string> wait_until_ready(unsigned device);
  [[nodiscard]] std::string log_end() const;

  std::string folder_;
  pid_t pid_ = 0;
};

}  // namespace vgpu::cli
