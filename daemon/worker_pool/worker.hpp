// One vgpud-worker process as the broker holds it: its pidfd, its socket, its gate page, its lifeline.
// Decides nothing (worker_pool.hpp does).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "protocol/gate.hpp"
#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {

enum class WorkerState { starting, ready, attached, dying };

// The descriptors behind a worker: all that another vgpud needs to take it over.
struct WorkerDescriptors {
  UniqueFd pidfd;
  UniqueFd socket;     // SEQPACKET, to the worker
  UniqueFd gate;       // memfd of its gate page
  UniqueFd attention;  // eventfd that the worker raises when it waits for device time
  // A pipe's write end, never written to. The kernel kills the worker when the last copy is closed: a worker
  // lives as long as a vgpud, or a service manager that is to start the next one, holds this.
  UniqueFd lifeline;
};

// Kills its process when destroyed, unless it has ended or been handed over; reaping is the pool's.
struct Worker {
  std::uint64_t id = 0;
  pid_t pid = 0;
  WorkerDescriptors fds;
  bool adopted = false;  // started by an earlier vgpud: no child of ours
  std::shared_ptr<GateMapping> gate;
  WorkerState state = WorkerState::starting;
  DeviceReport report;  // valid from WorkerState::ready on
  // The session's socket, of a guest process: its other end closes no sooner than this process is gone, so
  // that a slot of a VM's memory has one worker at a time.
  UniqueFd guest_socket;
  std::uint64_t start_timer = 0;
  std::string problem;  // what it said before it failed
  // Called once when an attached worker has ended by itself: how ("signal 11"), and whether it was in order
  // (exit status 0: it saw its client leave before the broker did).
  std::function<void(const std::string& how, bool orderly)> on_end;
  // What an attached worker says; until end().
  std::function<void(const Message& message)> on_message;

  Worker() = default;
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker();

  // SIGKILL; harmless when it has ended.
  void kill() const;
};

// What a worker's process is given.
struct WorkerCommand {
  std::string program;  // path of vgpud-worker
  std::string driver;   // path of the device's libcuda.so.1
  unsigned ordinal = 0;
  std::vector<std::string> environment{};  // NAME=VALUE, over the broker's own
};

// Starts a worker process. It inherits standard error and four descriptors, 3 (socket), 4 (gate), 5
// (attention), 6 (lifeline), and nothing else. The error is a sentence.
[[nodiscard]] tl::expected<std::unique_ptr<Worker>, std::string> spawn_worker(const WorkerCommand& command);

// A running worker of an earlier vgpud, attached. The error is a sentence; the descriptors are closed then,
// which ends the worker.
[[nodiscard]] tl::expected<std::unique_ptr<Worker>, std::string> adopt_worker(WorkerDescriptors descriptors,
                                                                              const DeviceReport& report);

// The process behind a pidfd, 0 when it has ended or `pidfd` is none.
[[nodiscard]] pid_t pid_of(int pidfd);

}  // namespace vgpu::daemon
