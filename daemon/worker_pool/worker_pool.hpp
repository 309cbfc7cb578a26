// Keeps workers of one device ready, hands them out, replaces the dead, reaps all. Knows nothing of clients.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "daemon/base/event_loop.hpp"
#include "daemon/worker_pool/worker.hpp"

namespace vgpu::daemon {

// Belongs to the loop's thread. A start that fails is repeated after a pause that grows from 0.1 s to 10 s.
class WorkerPool {
 public:
  struct Options {
    WorkerCommand command;
    unsigned prestart = 1;
    unsigned max_workers = 64;
    std::chrono::milliseconds start_timeout{30000};
  };
  struct Callbacks {
    std::function<void(const DeviceReport&)> on_ready;        // a worker can be taken
    std::function<void(const std::string&)> on_start_failed;  // with a sentence
  };

  WorkerPool(EventLoop& loop, Options options, Callbacks callbacks);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Starts workers until `prestart`, or one for each waiting client if those are more, are ready or starting.
  void fill();
  // Other values of these options from now on; fills, and ends no worker.
  void set_limits(unsigned prestart, unsigned max_workers);
  // How many clients wait for a worker now; fills.
  void set_waiting(unsigned clients);
  // A ready worker, now attached, or null. It stays the pool's; the pointer is good until end() or on_end.
  Worker* take();
  // Kills every ready or starting worker and fills again: what they hold of the device is of no more use.
  void renew();
  // Takes over an attached worker of an earlier vgpud; as if take() had returned it.
  Worker* adopt(std::unique_ptr<Worker> worker);
  // Kills a taken worker; its on_end is not called.
  void end(Worker* worker);
  // Lets go of a taken worker, which the next vgpud adopts; the pointer is void.
  void hand_over(Worker* worker);
  // Starts no workers, until resume(): none could serve.
  void pause();
  void resume();
  // Kills all and starts no more; reap_all() then waits for them.
  void stop();
  // Waits at most `longest` until every process has been reaped.
  void reap_all(std::chrono::milliseconds longest);

  [[nodiscard]] unsigned count(WorkerState state) const;
  [[nodiscard]] bool full() const { return workers_.size() >= options_.max_workers; }
  // Workers that ended by themselves while serving a client.
  [[nodiscard]] std::uint64_t crashes() const { return crashes_; }
  [[nodiscard]] const Options& options() const { return options_; }

 private:
  void start_one();
  Worker& watch(std::unique_ptr<Worker> worker);
  void start_failed(const std::string& why);
  void on_message(Worker& worker);
  void on_exit(std::uint64_t id);
  void forget(Worker& worker);

  EventLoop& loop_;
  Options options_;
  Callbacks callbacks_;
  std::map<std::uint64_t, std::unique_ptr<Worker>> workers_;  // by age
  std::uint64_t next_id_ = 1;
  std::uint64_t crashes_ = 0;
  unsigned waiting_ = 0;
  unsigned failures_ = 0;
  EventLoop::TimerId retry_ = 0;
  bool stopping_ = false;
  bool paused_ = false;
};

}  // namespace vgpu::daemon
