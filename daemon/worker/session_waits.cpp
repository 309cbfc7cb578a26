// Waiting for the client's work without holding up the dispatcher: what is to happen when a stream, or all
// that was submitted, has got to its end.
#include <utility>

#include "daemon/worker/session.hpp"
#include "protocol/futex.hpp"

namespace vgpu::worker {

CUresult Session::after_stream(const StreamKey& key, std::function<void(CUresult)> done) {
  const StreamLedger::Mark fence = ledger_.fence(key);
  const CUcontext current = contexts_.current();
  if (key.first != current) driver_.cuCtxSetCurrent(key.first);
  const CUresult recorded = completions_.after_stream(key.first, key.second,
                                                      [this, fence, done = std::move(done)](CUresult result) {
                                                        errors_.note(result);
                                                        ledger_.ended(fence);
                                                        if (done) done(result);
                                                      });
  if (key.first != current) driver_.cuCtxSetCurrent(current);
  // A stream in which nothing can be recorded any more (after a fault) has no work that could still end.
  if (recorded != CUDA_SUCCESS) {
    ledger_.ended(fence);
    // Lets the driver write out what kernels printed before.
    if (key.first == current && ClientErrors::is_sticky(recorded) && driver_.cuStreamSynchronize != nullptr)
      driver_.cuStreamSynchronize(key.second);
  }
  return recorded;
}

CUresult Session::after_stream_soon(const StreamKey& key, std::function<void(CUresult)> done, bool print) {
  // A stream of another context is asked in that context only; a query would end a capture.
  if (soon_ || captures_ != 0 || key.first != contexts_.current() || driver_.cuStreamQuery == nullptr) {
    return after_stream(key, std::move(done));
  }
  soon_ = SoonWait{ledger_.fence(key), std::move(done), print};
  return CUDA_SUCCESS;
}

bool Session::poll_soon() {
  if (!soon_) return false;
  const CUstream stream = soon_->fence.stream().second;
  CUresult result = driver_.cuStreamQuery(stream);
  if (result == CUDA_ERROR_NOT_READY) return true;
  const SoonWait wait = std::move(*soon_);
  soon_.reset();
  // Returns at once, and lets the driver write out what kernels printed, also before a fault.
  if ((wait.print || result != CUDA_SUCCESS) && something_written(result) &&
      driver_.cuStreamSynchronize != nullptr) {
    result = driver_.cuStreamSynchronize(stream);
  }
  // A fault is known before anybody hears of it here. Then the answer: what else there is to do the client
  // need not wait for.
  errors_.note(result);
  wait.done(result);
  ledger_.ended(wait.fence);
  return false;
}

void Session::settle_soon() {
  if (!soon_) return;
  SoonWait wait = std::move(*soon_);
  soon_.reset();
  ledger_.reopen(wait.fence);
  const auto done = std::make_shared<std::function<void(CUresult)>>(std::move(wait.done));
  const std::uint64_t settled = now_ns();
  // How long it takes from here on is what a longer spin would have had to bridge.
  const CUresult result = after_stream(wait.fence.stream(), [this, done, settled](CUresult what) {
    (*done)(what);
    wait_spin_.slept(now_ns() - settled);
  });
  if (result != CUDA_SUCCESS) (*done)(result);
}

bool Session::nothing_under_way() {
  if (captures_ != 0) return false;
  if (!ledger_.busy()) return true;
  // One stream may have finished without anybody's having asked. A GPU's driver is not asked: that costs
  // more than it saves.
  if (!software_ || driver_.cuStreamQuery == nullptr) return false;
  const std::optional<StreamLedger::Mark> left = ledger_.only_busy();
  if (!left || left->stream().first != contexts_.current()) return false;
  if (driver_.cuStreamQuery(left->stream().second) != CUDA_SUCCESS) return false;
  ledger_.ended(*left);
  return true;
}

void Session::fence_busy_streams() {
  // Recording in the legacy stream would disturb a capture.
  if (captures_ != 0) return;
  for (const StreamLedger::Mark& mark : ledger_.unfenced())
    errors_.note(after_stream(mark.stream(), nullptr));
}

void Session::when_all_done(std::function<void(CUresult)> done, Scope scope) {
  struct Waiting {
    std::atomic<std::size_t> left{1};
    std::atomic<int> result{0};
    std::function<void(CUresult)> done;
    void one(CUresult what) {
      int none = 0;
      if (what != CUDA_SUCCESS) result.compare_exchange_strong(none, static_cast<int>(what));
      if (left.fetch_sub(1) == 1) done(static_cast<CUresult>(result.load()));
    }
  };
  const auto waiting = std::make_shared<Waiting>();
  waiting->done = std::move(done);
  std::vector<StreamKey> streams;
  if (captures_ == 0) {
    streams = ledger_.unfinished(scope, [&waiting] {
      waiting->left.fetch_add(1);
      return [waiting](CUresult what) { waiting->one(what); };
    });
  }
  if (streams.size() == 1 && waiting->left.load() == 1) {
    const CUresult result = after_stream_soon(
        streams.front(), [waiting](CUresult what) { waiting->one(what); }, true);
    if (result != CUDA_SUCCESS) waiting->one(result);
    return;
  }
  for (const StreamKey& key : streams) {
    waiting->left.fetch_add(1);
    const CUresult result = after_stream(key, [waiting](CUresult what) { waiting->one(what); });
    if (result != CUDA_SUCCESS) waiting->one(result);
  }
  waiting->one(CUDA_SUCCESS);
}

void Session::when_all_done_apart(std::function<void(CUresult)> done, Scope scope) {
  if (captures_ == 0 && blocking_.idle() && !ledger_.busy(scope.device)) return done(CUDA_SUCCESS);
  if (!software_ && captures_ == 0) {
    hold_records();
    when_all_done(
        [this, done = std::move(done)](CUresult result) {
          done(result);
          release_records();
        },
        scope);
    return;
  }
  when_all_done(
      [this, done = std::move(done)](CUresult result) { blocking_.post([done, result] { done(result); }); },
      scope);
}

void Session::release_records() {
  held_.fetch_sub(1);
  futex_wake(held_);
}

}  // namespace vgpu::worker
