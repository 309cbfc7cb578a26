// The shared memory of one VM as the host holds it: makes it, divides it, clears its slots. Knows nothing of
// sessions; believes nothing that stands in it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <tl/expected.hpp>

#include "protocol/stub_layout.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::daemon::stub_host {

// Mapped whole for its life. The functions are the loop's thread's; the pages are shared with the guest.
class VmMemory {
 public:
  // A memfd of fixed, sealed size. The error is a sentence.
  static tl::expected<std::unique_ptr<VmMemory>, std::string> create(std::uint64_t bytes,
                                                                     std::uint32_t slots);
  // The same in a folder of regular files that stands for the PCI function (docs/vgpu-stub.md, names), for a
  // guest's vgpud without a VM. Files that are there already and fit are used again, so that who has them
  // mapped stays connected.
  static tl::expected<std::unique_ptr<VmMemory>, std::string> create_tree(const std::filesystem::path& root,
                                                                          std::uint64_t bytes,
                                                                          std::uint32_t slots);
  // Takes over a memory made by create(), as out of systemd's FD store.
  static tl::expected<std::unique_ptr<VmMemory>, std::string> adopt(UniqueFd memory, std::uint32_t slots);
  ~VmMemory();
  VmMemory(const VmMemory&) = delete;
  VmMemory& operator=(const VmMemory&) = delete;

  [[nodiscard]] int fd() const { return memory_.get(); }
  [[nodiscard]] const stub::Division& division() const { return division_; }
  [[nodiscard]] stub::HostPage& host() const { return *reinterpret_cast<stub::HostPage*>(base_); }
  [[nodiscard]] stub::GuestPage& guest() const {
    return *reinterpret_cast<stub::GuestPage*>(base_ + stub::guest_page_offset);
  }
  [[nodiscard]] stub::SlotControl& slot(std::uint32_t index) const {
    return *reinterpret_cast<stub::SlotControl*>(base_ + division_.control(index));
  }
  [[nodiscard]] ChannelControl& channel_control(std::uint32_t index) const {
    return *reinterpret_cast<ChannelControl*>(base_ + division_.memory(index) + channel_offset::control);
  }
  [[nodiscard]] UpcallEntry* upcalls(std::uint32_t index) const {
    return reinterpret_cast<UpcallEntry*>(base_ + division_.memory(index) + channel_offset::upcalls);
  }
  // The doorbell word of a folder's BAR0, or null: a VM rings an eventfd.
  [[nodiscard]] std::atomic<std::uint32_t>* doorbell_word() const { return doorbell_; }

  // Zeroes a slot's memory, console text and host words, gives the pages back to the system, writes the
  // channel's header.
  void clear_slot(std::uint32_t index) const;
  // Zeroes everything, as for another guest.
  void clear_all() const;

 private:
  VmMemory() = default;
  tl::expected<void, std::string> divide(std::uint64_t bytes, std::uint32_t slots);
  tl::expected<void, std::string> map(std::uint64_t bytes, std::uint32_t slots);
  void zero(std::uint64_t offset, std::uint64_t bytes) const;

  UniqueFd memory_;
  stub::Division division_;
  std::byte* base_ = nullptr;
  void* registers_ = nullptr;
  std::atomic<std::uint32_t>* doorbell_ = nullptr;
};

}  // namespace vgpu::daemon::stub_host
