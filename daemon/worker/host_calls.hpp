// Functions of the client's that the driver is to call: in streams, in graphs, and as destructors of user
// objects. The driver gets a call of ours instead, which asks the client to run the function
// (protocol/upcall.hpp). Never runs one itself, and knows nothing of streams and graphs.
#pragma once

#include <cuda.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "daemon/worker/queue_thread.hpp"
#include "protocol/channel.hpp"
#include "protocol/upcall.hpp"

namespace vgpu::worker {

/// Thread-safe: the driver's threads call.
class HostCalls {
 public:
  /// What the driver gets with one of the functions below.
  struct Call {
    HostCalls& owner;
    Upcall upcall;
    bool keep;  ///< captured into a graph: called at each replay
  };

  /// Both outlive the object. Once `stop` is set, what is left is not delivered.
  HostCalls(const Channel& channel, const std::atomic<bool>& stop) : stop_(stop), upcalls_(channel) {}
  HostCalls(const HostCalls&) = delete;
  HostCalls& operator=(const HostCalls&) = delete;

  /// For a stream; unless it is to be kept it ends with its one call.
  Call* for_stream(const Upcall& upcall, bool keep);
  /// The driver has not taken it.
  static void refused(const Call* call) {
    if (!call->keep) delete call;
  }
  /// For a graph, which has it once keep() is called.
  std::unique_ptr<Call> for_graph(const Upcall& upcall);
  void keep(std::unique_ptr<Call> call);
  /// What the client wanted to be called, if `call` is one that was kept.
  std::optional<Upcall> kept(const void* call);
  /// For a user object, which has it once expect() is called. The driver may call it in the middle of any
  /// call of its own: the client is asked by a thread of ours.
  std::unique_ptr<Call> for_destructor(const Upcall& upcall);
  void expect(std::unique_ptr<Call> call);

  static void CUDA_CB run(void* call);
  static void CUDA_CB run_callback(CUstream stream, CUresult status, void* call);
  static void CUDA_CB run_destructor(void* call);

 private:
  const std::atomic<bool>& stop_;
  UpcallPoster upcalls_;
  QueueThread destructor_calls_;
  std::mutex mutex_;  // all below
  std::deque<std::unique_ptr<Call>> kept_;
  std::unordered_map<const Call*, std::unique_ptr<Call>> destructors_;  // of user objects not yet gone
};

}  // namespace vgpu::worker
