// When a command may be submitted and what it is expected to take: the session's side of scheduling. How much
// device time there is for it the gate page says (accounting.hpp).
#include <algorithm>
#include <utility>

#include "daemon/worker/session.hpp"
#include "protocol/futex.hpp"

namespace vgpu::worker {
namespace {

constexpr std::uint32_t batch_commands = 16;  // a fence at least after so many
constexpr unsigned batches_a_window = 4;
constexpr std::uint64_t longest_sleep_ns = 10'000'000;
constexpr std::uint64_t long_spin_ns = 2'000'000;
// Of work in flight that may wait for what is behind the command at the gate.
constexpr std::uint64_t gate_patience_ns = 50'000'000;
constexpr std::uint64_t copy_bytes_a_us = 10'000;  // a cautious guess: 10 GB/s

}  // namespace

Prediction Session::predict_copy(std::uint64_t bytes) {
  Prediction prediction;
  prediction.ns = 1000 + bytes * 1000 / copy_bytes_a_us;
  return prediction;
}

void Session::throttle(OwnDevice& device, const Cost& cost) {
  GatePage& page = device.accounting->page();
  const std::uint64_t launches = page.launch_rate_micro.load(std::memory_order_relaxed);
  const std::uint64_t bytes = page.byte_rate.load(std::memory_order_relaxed);
  if (launches == 0 && bytes == 0) return;
  const std::uint64_t began = now_ns();
  const std::uint64_t delay =
      std::max(cost.launches != 0
                   ? device.launch_bucket.take(cost.launches, static_cast<double>(launches) / 1e6, began)
                   : 0,
               cost.bytes != 0 ? device.byte_bucket.take(cost.bytes, static_cast<double>(bytes), began) : 0);
  if (delay == 0) return;
  settle_soon();
  fence_busy_streams();
  const std::uint32_t refill = page.refill.load(std::memory_order_acquire);
  for (std::uint64_t now = began; now - began < delay && peers_alive(); now = now_ns()) {
    // A limit that was lifted lets the call go at once.
    if (page.launch_rate_micro.load(std::memory_order_relaxed) != launches ||
        page.byte_rate.load(std::memory_order_relaxed) != bytes) {
      break;
    }
    answer_early();
    completions_.hand_off();
    sleep_at_gate(page.refill, refill, std::min(began + delay - now, longest_sleep_ns));
    obey_order();
  }
  page.throttled_ns.fetch_add(now_ns() - began, std::memory_order_relaxed);
}

void Session::bound_earlier_work(OwnDevice& device) {
  const std::uint64_t window = device.accounting->window_ns();
  // Not the whole window: a stream that the program holds up until another one has got on would keep that
  // one at the gate.
  const std::uint64_t expected = window != no_limit_ns ? window / 2 : 0;
  std::uint64_t each = 0;
  for (const StreamKey& key : ledger_.batch_earlier(*device.accounting, expected, each)) {
    device.accounting->submitted(each);
    errors_.note(after_stream(key, nullptr));
  }
}

void Session::answer_early() {
  if (captures_ != 0) return;
  const std::span<const std::byte> held = running_;
  const PendingReply current = current_;
  const bool answered_later = deferred_;
  for (;;) {
    const std::span<const std::byte> question = early_.next(held, contexts_.index());
    if (question.empty()) break;
    run_record(question);
  }
  running_ = held;
  current_ = current;
  deferred_ = answered_later;
}

void Session::sleep_at_gate(const std::atomic<std::uint32_t>& word, std::uint32_t value,
                            std::uint64_t timeout_ns) {
  if (captures_ == 0 && early_.looking()) {
    ring_.sleep_at_gate(word, value, early_.seen(), timeout_ns);
  } else {
    futex_wait(word, value, timeout_ns);
  }
}

std::uint64_t Session::gate_patience(const OwnDevice& device, const StreamKey& next) {
  // A kernel may wait for one of another device: libraries of collectives do so.
  if (contexts_.several_devices()) return gate_patience_ns;
  return ledger_.may_wait_for_more(*device.accounting, next) ? gate_patience_ns : UINT64_MAX;
}

void Session::admit(CUstream stream, const Prediction& prediction, const Cost& cost) {
  if (captures_ != 0 && capturing(stream)) return;
  OwnDevice& device = contexts_.device_of(stream);
  const StreamKey key = contexts_.key_of(stream);
  admit_once(device, key, prediction, cost);
  // While it waited for its turn, its memory may have been moved out.
  while (residence_ && residence_->memory.out() && bring_back() == CUDA_SUCCESS) {
    admit_once(device, key, prediction, Cost{});
  }
}

Prediction Session::admit_kind(CUstream stream, std::uint64_t kind, const Cost& cost) {
  Prediction prediction = estimates_.predict(kind);
  admit(stream, prediction, cost);
  if (!prediction.awaited) return prediction;
  const bool time_it = prediction.time_it;
  prediction = estimates_.look(kind);
  prediction.time_it = time_it;
  return prediction;
}

void Session::admit_once(OwnDevice& device, const StreamKey& stream, const Prediction& prediction,
                         const Cost& cost) {
  throttle(device, cost);
  Accounting& accounting = *device.accounting;
  if (!accounting.bounded()) {
    device.bounded = false;
    return;
  }
  if (!device.bounded && captures_ == 0) {
    device.bounded = true;
    bound_earlier_work(device);
  }
  const bool several = contexts_.several_devices();
  std::function<std::uint64_t()> next_ns;
  if (prediction.awaited) {
    next_ns = [this, kind = prediction.key] {
      const Prediction now = estimates_.look(kind);
      return now.awaited ? no_limit_ns : now.ns;
    };
  }
  accounting.admit(prediction.ns,
                   {[this, fenced = false]() mutable {
                      // What no fence follows yet would never be seen to end.
                      if (!fenced) fence_busy_streams();
                      fenced = true;
                      completions_.poll();
                      answer_early();
                      obey_order();
                    },
                    [this, several] {
                      fence_busy_streams();
                      answer_early();
                      completions_.hand_off();
                      obey_order();
                      // The other devices' keepers are not to think that nobody is here any more.
                      if (several) {
                        for (const OwnDevice& own : contexts_.devices()) own.accounting->measure();
                      }
                    },
                    [this](const std::atomic<std::uint32_t>& word, std::uint32_t value, std::uint64_t ns) {
                      sleep_at_gate(word, value, ns);
                    },
                    [this] { return !peers_alive(); }, spin_long_ ? long_spin_ns : default_spin_ns(),
                    [this, &device, &stream] { return gate_patience(device, stream); }, next_ns});
}

void Session::submitted_command(CUstream stream, const Prediction& prediction) {
  if (captures_ != 0 && capturing(stream)) return;
  const StreamKey key = contexts_.key_of(stream);
  ledger_.submitted(key);
  const OwnDevice& device = contexts_.device_of(stream);
  Accounting& accounting = *device.accounting;
  accounting.expect(prediction.ns, prediction.known);
  if (!device.bounded || captures_ != 0) return;
  accounting.submitted(prediction.ns);
  const Batch open = ledger_.batched(key, prediction.ns);
  const bool full = !prediction.known || open.count >= batch_commands ||
                    open.predicted_ns >= accounting.window_ns() / batches_a_window;
  if (full) errors_.note(after_stream(key, nullptr));
}

CommandTimers::Started Session::begin_timing(CUstream stream, const Prediction& prediction, bool may_hold) {
  // Events are a context's own, and must not get into a graph.
  if (!prediction.time_it) return {};
  const StreamKey key = contexts_.key_of(stream);
  CommandTimers::Started started;
  if (captures_ == 0 && contexts_.current_is_primary() && key.first == contexts_.current())
    started = timers_.begin(key, stream, may_hold && prediction.hold);
  if (started.event == nullptr) estimates_.not_timed(prediction.key);
  return started;
}

void Session::end_timing(const CommandTimers::Started& began, CUstream stream, const Prediction& prediction) {
  if (timers_.end(began, stream, prediction.key)) ledger_.drained(began.stream);
}

int Session::stream_priority(int wanted) const {
  int least = 0;
  int greatest = 0;
  if (driver_.cuCtxGetStreamPriorityRange == nullptr ||
      driver_.cuCtxGetStreamPriorityRange(&least, &greatest) != CUDA_SUCCESS || greatest >= least) {
    return wanted;
  }
  // Numbers fall as priorities rise. A class above the lowest lifts its clients' streams by a third of the
  // range a level.
  const std::uint32_t level = std::min(accounting_.page().level.load(std::memory_order_relaxed), 2u);
  const int lift = static_cast<int>(2 - level) * (least - greatest) / 3;
  return std::clamp(wanted - lift, greatest, least);
}

}  // namespace vgpu::worker
