// A QEMU with VGPU-STUB as its vgpud sees it, for tests: the socket's end, and the memory in which a test
// plays the guest.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/testing/broker_process.hpp"
#include "daemon/testing/ivshmem_client.hpp"
#include "protocol/stub_layout.hpp"

namespace vgpu::daemon::testing {

// A configuration's part: one VM, "web".
inline constexpr const char* kWebVm = "vms: [{name: web, size: 16MiB, slots: 2}]\n";

// Where a broker's VM waits for its QEMU.
inline std::filesystem::path vm_socket(const BrokerProcess& broker, const std::string& vm) {
  return std::filesystem::path(broker.folder()) / "vm" / (vm + ".sock");
}

class Qemu {
 public:
  // connected() says whether all came that the server sends.
  explicit Qemu(const std::filesystem::path& path) : socket_(connect_to(path)) {
    if (!socket_) return;
    EXPECT_EQ(receive().value, 0);  // the version
    peer_ = receive().value;
    memory_ = receive().fd;
    for (UniqueFd& doorbell : doorbells_) doorbell = receive().fd;
    for (std::uint32_t vector = 0; vector < stub::vector_count; ++vector) {
      EXPECT_EQ(receive().value, peer_);  // what interrupts the guest
    }
    struct stat status {};
    if (fstat(memory_.get(), &status) != 0) return;
    bytes_ = static_cast<std::size_t>(status.st_size);
    void* const place = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, memory_.get(), 0);
    if (place != MAP_FAILED) base_ = static_cast<std::byte*>(place);
  }
  ~Qemu() {
    if (base_ != nullptr) munmap(base_, bytes_);
  }
  Qemu(const Qemu&) = delete;
  Qemu& operator=(const Qemu&) = delete;

  [[nodiscard]] bool connected() const { return base_ != nullptr; }
  [[nodiscard]] int socket() const { return socket_.get(); }
  // Gives up the connection and keeps all that came over it.
  void hang_up() { socket_.reset(); }
  [[nodiscard]] int doorbell(std::uint32_t vector) const { return doorbells_[vector].get(); }
  [[nodiscard]] std::int64_t peer() const { return peer_; }
  [[nodiscard]] stub::HostPage& page() const { return *at<stub::HostPage>(0); }
  [[nodiscard]] stub::GuestPage& guest() const { return *at<stub::GuestPage>(stub::guest_page_offset); }
  [[nodiscard]] stub::SlotControl& slot(std::uint32_t index) const {
    return *at<stub::SlotControl>(division().control(index));
  }
  [[nodiscard]] ChannelControl& channel(std::uint32_t index) const {
    return *at<ChannelControl>(division().memory(index) + channel_offset::control);
  }
  void ring(std::uint32_t vector) const {
    const std::uint64_t one = 1;
    EXPECT_EQ(write(doorbells_[vector].get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  }

 private:
  [[nodiscard]] stub::Division division() const { return stub::divide(bytes_, page().slot_count.load()); }
  template <class Part>
  [[nodiscard]] Part* at(std::uint64_t offset) const {
    return reinterpret_cast<Part*>(base_ + offset);
  }
  [[nodiscard]] Number receive() const {
    Number number;
    eventually([&] {
      number = receive_number(socket_.get());
      return number.value != INT64_MIN;
    });
    return number;
  }

  UniqueFd socket_;
  std::int64_t peer_ = 0;
  UniqueFd memory_;
  std::array<UniqueFd, stub::vector_count> doorbells_;
  std::byte* base_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace vgpu::daemon::testing
