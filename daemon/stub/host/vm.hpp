// One VM that the host's vgpud serves: its memory, its socket, its slots and the session behind each.
// Requests of the guest become sessions like any client's; here is decided what the VM as a whole may have.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/base/log.hpp"
#include "daemon/config/config.hpp"
#include "daemon/session/session_manager.hpp"
#include "daemon/stub/host/doorbell_thread.hpp"
#include "daemon/stub/host/ivshmem_server.hpp"
#include "daemon/stub/host/kept_vm.hpp"
#include "daemon/stub/host/vm_memory.hpp"
#include "protocol/memory_account.hpp"

namespace vgpu::daemon::stub_host {

// For `vgpud-cli vm list` and `stats`.
struct VmStats {
  std::string name;
  std::string class_name;
  std::string socket;  // or the folder
  std::string guest;   // its host name, as it says
  std::uint64_t bytes = 0;
  std::uint32_t slots = 0;
  std::uint32_t slots_open = 0;
  bool connected = false;  // a QEMU, or a guest's vgpud in a folder's memory
  bool attached = false;   // a guest's vgpud is alive
  std::uint64_t doorbells = 0;
  std::uint64_t sessions = 0;  // opened so far
  std::uint64_t refused = 0;
  std::uint64_t lost = 0;  // guests that went away with sessions open
  std::uint64_t memory_used = 0;
  std::uint64_t memory_quota = 0;
  std::uint32_t weight = 0;
};

// Belongs to the loop's thread. The sessions of its guest end with it; its QEMU, where the service manager
// keeps the descriptors, goes on with the next vgpud's object of the same name.
class Vm {
 public:
  using ClassOf = std::function<const ClassConfig*(const std::string&)>;

  // `configured`: it stands in the configuration, so that the next vgpud finds it there or not at all.
  Vm(EventLoop& loop, SessionManager& sessions, DescriptorStore& store, VmConfig config, bool configured,
     ClassOf class_of);
  ~Vm();
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  // Makes the memory and the socket, or takes over what an earlier vgpud kept, if that fits. The error is a
  // sentence.
  [[nodiscard]] tl::expected<void, std::string> start(const std::string& group, std::optional<KeptVm> kept);
  // The VM is removed, not only this object: QEMU loses it.
  void forget() { keeper_.forget(); }

  // Looks at what the guest has written, as is done by itself every 25 ms and at a doorbell.
  void look() { beat(); }
  [[nodiscard]] const VmMemory& memory() const { return *memory_; }
  [[nodiscard]] const VmConfig& config() const { return config_; }
  [[nodiscard]] VmStats stats() const;

 private:
  struct Slot {
    stub::SlotState state = stub::SlotState::free;
    std::uint32_t answered = 0;
    std::uint32_t identity = 0;
    std::uint64_t session = 0;
    UniqueFd socket;       // our end of the session's, which closes when its worker has gone too
    bool leaving = false;  // the session has been ended
    UniqueFd direct;       // the "client's" end of the direct socket; nothing is sent over it
  };

  void write_host_page();
  void beat();
  void scan();
  void watch_heartbeat();
  bool guest_is_attached();
  void look_at(std::uint32_t index);
  void open(std::uint32_t index);
  void leave(std::uint32_t index);
  void close(std::uint32_t index);
  void close_all(const std::string& why);
  void on_session(std::uint32_t index);
  void publish(std::uint32_t index, stub::SlotState state, const std::string& reason, RefusalCode code);
  void read_identity(std::uint32_t index);
  void share_out();
  IvshmemServer::Device on_qemu();
  void on_qemu_gone();
  void on_request();
  [[nodiscard]] tl::expected<void, std::string> make_device();
  void use_device(std::unique_ptr<VmMemory> memory, IvshmemServer::Doorbells doorbells);
  void begin_device();
  [[nodiscard]] std::uint64_t doorbells_received() const;
  [[nodiscard]] VmRecord record() const;

  EventLoop& loop_;
  SessionManager& sessions_;
  VmConfig config_;
  bool configured_;
  ClassOf class_of_;
  VmKeeper keeper_;
  log::Limiter lines_;
  std::unique_ptr<VmMemory> memory_;
  UniqueFd account_fd_;
  std::unique_ptr<MemoryAccount> account_;  // of all slots' device memory; a slot's worker has its place
  IvshmemServer::Doorbells doorbells_;
  UniqueFd requests_;  // eventfd, raised by the doorbell thread
  std::unique_ptr<IvshmemServer> server_;
  std::unique_ptr<DoorbellThread> doorbell_thread_;
  std::vector<Slot> slots_;
  std::uint64_t generation_ = 0;
  std::uint64_t heartbeat_ = 0;
  std::uint64_t guest_generation_ = 0;
  std::uint64_t guest_heartbeat_ = 0;
  EventLoop::Clock::time_point guest_seen_;
  bool attached_ = false;
  unsigned may_open_ = 64;  // sessions that the guest may ask for now
  bool first_doorbell_logged_ = false;
  std::uint64_t rung_before_ = 0;  // doorbells of QEMUs that have gone
  std::uint64_t opened_ = 0, refused_ = 0, lost_ = 0;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace vgpu::daemon::stub_host
