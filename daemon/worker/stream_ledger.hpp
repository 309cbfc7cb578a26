// The account of a client's unfinished work, stream by stream: what was submitted to each, what the
// completion of a fence will report, which commands no fence follows yet, and what streams left behind that
// the client has destroyed. Tells the devices' accounts when work begins on them and when all has ended.
// Never calls the driver and never waits: who uses it records the fences and asks the streams.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "daemon/worker/accounting.hpp"

namespace vgpu::worker {

/// A stream by its context, and nullptr for the legacy stream of that.
using StreamKey = std::pair<CUcontext, CUstream>;

/// Commands that were submitted while the work in flight is bounded and that no fence follows yet.
struct Batch {
  std::uint32_t count = 0;
  std::uint64_t predicted_ns = 0;
};

/// Thread-safe.
class StreamLedger {
  struct Device;
  struct Work;
  struct Orphan;

 public:
  using Done = std::function<void(CUresult)>;

  /// Whose work is meant: that of one context or device, or (null) all.
  struct Scope {
    CUcontext context = nullptr;
    const Accounting* device = nullptr;
  };

  /// All that had been submitted to a stream at one time, and the commands whose end is to be told with it.
  class Mark {
   public:
    const StreamKey& stream() const;

   private:
    friend class StreamLedger;
    Mark(std::shared_ptr<Work> work, std::uint64_t submitted, const Batch& batch)
        : work_(std::move(work)), submitted_(submitted), batch_(batch) {}
    std::shared_ptr<Work> work_;
    std::uint64_t submitted_;
    Batch batch_;
  };

  /// `devices`, which outlive the object, are the client's; `place_of` says among them which one a context is
  /// on, and is asked when a stream is first heard of, with the account locked.
  StreamLedger(const std::vector<Accounting*>& devices, std::function<std::size_t(CUcontext)> place_of);
  StreamLedger(const StreamLedger&) = delete;
  StreamLedger& operator=(const StreamLedger&) = delete;

  /// The stream has got more work.
  void submitted(const StreamKey& stream);
  /// Some of its unfinished work waits for the host or for another client.
  void held(const StreamKey& stream);
  /// What was submitted last counts as in flight. The stream's batch with it.
  Batch batched(const StreamKey& stream, std::uint64_t predicted_ns);
  /// Counts what each busy stream of a device has from before anything was bounded as one command more of its
  /// batch. `in_all_ns` is expected of them together, `each_ns` of each.
  std::vector<StreamKey> batch_earlier(const Accounting& device, std::uint64_t in_all_ns,
                                       std::uint64_t& each_ns);

  /// The stream's work as it is now.
  Mark mark(const StreamKey& stream);
  /// The same for a fence that follows it: the stream's batch ends with the fence.
  Mark fence(const StreamKey& stream);
  /// There is no such fence after all: its commands wait for the next one.
  void reopen(const Mark& fence);
  /// Of all that was submitted to a stream, only the latest may not have ended yet: if nothing else is under
  /// way on its device, the device's account begins anew.
  void drained(const StreamKey& stream);
  /// What was marked has ended; unless more was submitted since, the stream has no work now.
  void ended(const Mark& mark);

  /// The stream is about to be destroyed, its work goes on. To be called when that has ended.
  Done orphan(const StreamKey& stream);
  /// The stream is gone. What fences of it report still counts.
  void forget(const StreamKey& stream);
  /// A context's streams are gone with their work; or all are.
  void forget_context(CUcontext context);
  void forget_all();

  /// Whether there is unfinished work: any, a device's (null: any), a stream's.
  bool busy() const { return busy(nullptr); }
  bool busy(const Accounting* device) const;
  bool busy(const StreamKey& stream) const;
  /// The only stream with unfinished work; nullopt where there are several, or the client has destroyed it.
  std::optional<Mark> only_busy() const;
  /// Whether there is work whose end no fence will tell, and in which streams.
  bool any_unfenced() const;
  std::vector<Mark> unfenced() const;
  /// The busy streams of `scope`. For each destroyed one `watch` is called, with the account locked: what it
  /// returns is called with the end of that one's work.
  std::vector<StreamKey> unfinished(const Scope& scope, const std::function<Done()>& watch);
  /// Whether work of a device's may wait for what stands behind a command for `next`: some is held, or `next`
  /// has none there.
  bool may_wait_for_more(const Accounting& device, const StreamKey& next) const;

  /// Says whether the dispatcher sleeps, or is about to: then nobody else tells the broker of a device
  /// without work.
  void dispatcher_sleeps(bool sleeps) { asleep_.store(sleeps); }
  /// Tells the broker of devices without work.
  void rest();

 private:
  struct Device {
    Accounting* accounting;
    std::size_t busy_streams = 0;
  };
  struct Work {
    Device* device;
    StreamKey key;
    std::uint64_t submitted = 0;
    std::uint64_t fenced = 0;  // of `submitted`, what a completion will report
    bool busy = false;
    bool held = false;
    Batch open;
    bool unfenced() const { return busy && fenced != submitted; }
  };
  struct Orphan {
    Device* device;
    CUcontext context;
    std::vector<Done> waiting;
  };

  // All with the account locked.
  const std::shared_ptr<Work>& work_of(const StreamKey& stream);
  void clean(Work& work, bool dispatcher_awake);
  static void release(const Work& work, const Batch& batch);

  const std::function<std::size_t(CUcontext)> place_of_;
  std::atomic<bool> asleep_{false};
  mutable std::mutex mutex_;  // all below
  std::vector<Device> devices_;
  std::map<StreamKey, std::shared_ptr<Work>> work_;
  std::vector<std::shared_ptr<Orphan>> orphans_;
  std::size_t busy_streams_ = 0;
};

}  // namespace vgpu::worker
