// The VGPU-STUB function as a guest has it: found by scanning sysfs, its BARs mapped, its doorbell rung.
// Believes of the host's pages only what it has checked. Sources: Documentation/PCI/sysfs-pci.rst,
// docs/vgpu-stub.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "protocol/stub_layout.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::stub_guest {

/// Finds the function's folder under ROOT/bus/pci/devices: the one at `address`, or the first whose
/// vendor:device is among `ids` ("1af4:1110"). The error says what was looked for and what was there.
tl::expected<std::filesystem::path, std::string> find_function(const std::string& sysfs_root,
                                                               const std::string& address,
                                                               const std::vector<std::string>& ids);

/// What is said of a host that does not beat.
inline constexpr const char* silent_host = "the host's vgpud does not answer: its heartbeat stands still";

/// An opened function. Not thread-safe but for ring().
class PciFunction {
 public:
  /// Opens and maps BAR0 and the control part of BAR2, after checking magic, version, protocol and layout.
  /// The error is a sentence: what an operator has to know.
  static tl::expected<std::unique_ptr<PciFunction>, std::string> open(const std::filesystem::path& folder);
  ~PciFunction();
  PciFunction(const PciFunction&) = delete;
  PciFunction& operator=(const PciFunction&) = delete;

  const std::filesystem::path& folder() const { return folder_; }
  /// "resource2_wc" or "resource2".
  const std::string& memory_kind() const { return memory_kind_; }
  /// The descriptor of BAR2, for mapping slots.
  int memory() const { return memory_.get(); }
  /// As checked at open().
  const stub::Division& division() const { return division_; }

  const stub::HostPage& host() const { return *reinterpret_cast<const stub::HostPage*>(base_); }
  stub::GuestPage& guest() const {
    return *reinterpret_cast<stub::GuestPage*>(base_ + stub::guest_page_offset);
  }
  stub::SlotControl& slot(std::uint32_t index) const {
    return *reinterpret_cast<stub::SlotControl*>(base_ + division_.control(index));
  }

  /// Why the host's page cannot be worked with now, or an empty string.
  std::string problem() const;
  /// Waits at most `longest_ms` until the host's heartbeat moves; false: no host.
  bool host_alive(int longest_ms) const;
  /// Writes the doorbell register. Thread-safe.
  void ring(std::uint32_t vector) const;

  /// Takes a lock that lives as long as this process: a slot's, or (owner_lock) the function's. False:
  /// another process has it.
  bool lock(std::uint32_t what) const;
  void unlock(std::uint32_t what) const;
  /// True if another process holds the lock.
  bool locked_by_other(std::uint32_t what) const;
  static constexpr std::uint32_t owner_lock = 4095;

 private:
  PciFunction() = default;
  tl::expected<void, std::string> map_registers();
  bool set_lock(std::uint32_t what, short type) const;

  std::filesystem::path folder_;
  std::string memory_kind_;
  UniqueFd memory_;
  UniqueFd registers_;
  stub::Division division_;
  std::byte* base_ = nullptr;
  std::size_t mapped_ = 0;
  void* register_page_ = nullptr;
  std::size_t register_bytes_ = 0;
  volatile std::uint32_t* doorbell_ = nullptr;
};

}  // namespace vgpu::stub_guest
