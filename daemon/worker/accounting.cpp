#include "daemon/worker/accounting.hpp"

#include <unistd.h>

#include <algorithm>

#include "protocol/futex.hpp"

namespace vgpu::worker {
namespace {
constexpr std::uint64_t gate_sleep_ns = 10'000'000;
constexpr std::uint64_t slack_ns = 1'000'000;
constexpr std::uint64_t short_queue_ns = 10'000'000;  // of predicted time, while others wait for memory
constexpr std::uint32_t most_trifles = 4;
constexpr std::uint64_t trifles_a_window = 32;
constexpr std::uint64_t least_patience_ns = 5'000'000;
constexpr std::uint64_t patient_factor = 4;
constexpr std::uint32_t contended_window = 16;  // commands in flight when others of the client's VM wait
}  // namespace

Accounting::Accounting(GatePage& page, const DriverLibrary* driver, int attention, std::size_t place)
    : page_(page), driver_(driver), attention_(attention), place_(place) {
  if (driver_ == nullptr) return;
  meter_start_ = driver_->busy_ns(place_).value_or(0);
  page_.metered.store(driver_->software() ? 1 : 0, std::memory_order_relaxed);
}

void Accounting::wake_broker() const {
  if (attention_ < 0) return;
  const std::uint64_t one = 1;
  // A full counter means that the broker has not looked yet, which is as good.
  [[maybe_unused]] const ssize_t written = write(attention_, &one, sizeof one);
}

void Accounting::work_came() {
  if (page_.backlogged.load(std::memory_order_relaxed) != 0) return;
  page_.came_ns.store(now_ns(), std::memory_order_relaxed);
  set_backlogged(1);
  // Who has the device without a limit and nobody beside him need not wake the broker at each little piece of
  // work: it sees at its next look.
  if (bounded() || page_.others_busy.load(std::memory_order_relaxed) != 0) wake_broker();
}

void Accounting::set_backlogged(std::uint32_t value) {
  page_.backlogged.store(value, std::memory_order_release);
  if (slot_ != nullptr) slot_->host.backlogged.store(value, std::memory_order_release);
}

void Accounting::publish_in_flight() {
  const std::uint32_t counted = in_flight_.load(std::memory_order_acquire);
  const std::uint32_t said = counted == 0 && on_device_.load(std::memory_order_acquire) ? 1 : counted;
  page_.in_flight.store(said, std::memory_order_release);
  if (slot_ != nullptr) slot_->host.in_flight.store(said, std::memory_order_release);
}

void Accounting::count_progress() {
  const std::uint64_t now = page_.progress.fetch_add(1, std::memory_order_relaxed) + 1;
  if (slot_ != nullptr) slot_->host.progress.store(now, std::memory_order_relaxed);
}

void Accounting::tell(stub::SlotControl& slot) {
  slot_ = &slot;
  slot.host.metered.store(page_.metered.load(std::memory_order_relaxed), std::memory_order_relaxed);
}

void Accounting::work_began() {
  on_device_.store(true, std::memory_order_release);
  publish_in_flight();
  work_came();
  if (busy_since_.load(std::memory_order_relaxed) == 0) open_interval();
}

void Accounting::open_interval() {
  const std::uint64_t now = now_ns();
  busy_since_.store(now, std::memory_order_relaxed);
  if (!metered()) page_.measured_ns.store(now);
}

void Accounting::close_interval() {
  publish_used();
  // In this order, which clocked_ns() relies on: at worst it counts too little for a moment.
  const std::uint64_t used = clocked_ns();
  busy_since_.store(0);
  page_.measured_ns.store(0);
  busy_sum_.store(used);
  expected_.store(0, std::memory_order_relaxed);
  all_known_.store(true, std::memory_order_relaxed);
}

void Accounting::begin_anew() {
  if (metered()) return;
  close_interval();
  open_interval();
}

void Accounting::work_ended(bool dispatcher_awake) {
  close_interval();
  last_end_ns_.store(now_ns(), std::memory_order_relaxed);
  count_progress();
  on_device_.store(false, std::memory_order_release);
  publish_in_flight();
  if (!dispatcher_awake) {
    rest();
  } else if (page_.others_wait.load(std::memory_order_relaxed) != 0) {
    wake_broker();
  }
}

void Accounting::rest() {
  // Earlier work may end while the dispatcher waits at the gate with more.
  if (admitting_.load(std::memory_order_acquire)) return;
  if (page_.backlogged.load(std::memory_order_relaxed) == 0) return;
  page_.ended_ns.store(last_end_ns_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  set_backlogged(0);
  if (page_.others_wait.load(std::memory_order_relaxed) != 0) wake_broker();
}

void Accounting::expect(std::uint64_t predicted_ns, bool known) {
  expected_.fetch_add(predicted_ns, std::memory_order_relaxed);
  if (!known) all_known_.store(false, std::memory_order_relaxed);
}

// Time for which work was on the device, without the pauses in it that the lengths of its commands prove.
std::uint64_t Accounting::clocked_ns() const {
  const std::uint64_t sum = busy_sum_.load();
  const std::uint64_t since = busy_since_.load();
  if (since == 0) return sum;
  const std::uint64_t elapsed = now_ns() - since;
  const std::uint64_t expected = expected_.load(std::memory_order_relaxed);
  // What takes much longer than was expected is not a pause but another command than it used to be.
  const bool plausible = all_known_.load(std::memory_order_relaxed) && elapsed <= 2 * expected + slack_ns;
  return sum + (plausible ? std::min(elapsed, expected) : elapsed);
}

void Accounting::measure() {
  publish_used();
  if (metered() || busy_since_.load() == 0) return;
  // Last: at worst the broker counts a moment twice, until the counter has got there.
  page_.measured_ns.store(now_ns());
  if (busy_since_.load() == 0) page_.measured_ns.store(0);
}

void Accounting::publish_used() {
  const std::uint64_t beats = page_.beats.fetch_add(1, std::memory_order_relaxed) + 1;
  if (slot_ != nullptr) slot_->host.beats.store(beats, std::memory_order_relaxed);
  const std::uint64_t used = driver_ != nullptr && driver_->software()
                                 ? driver_->busy_ns(place_).value_or(meter_start_) - meter_start_
                                 : clocked_ns();
  // A forecast that was corrected may have been published already; the counter only grows.
  if (page_.consumed_ns.load(std::memory_order_relaxed) >= used) return;
  page_.consumed_ns.store(used, std::memory_order_release);
  page_.kernel_ns.store(used, std::memory_order_relaxed);
  if (slot_ != nullptr) {
    slot_->host.kernel_ns.store(used, std::memory_order_relaxed);
    slot_->host.consumed_ns.store(used, std::memory_order_release);
  }
}

std::uint64_t Accounting::window_ns() const {
  const std::uint64_t window = page_.window_ns.load(std::memory_order_relaxed);
  const std::uint64_t watchdog = page_.watchdog_ns.load(std::memory_order_relaxed);
  // So that one command can be told from many.
  const std::uint64_t watched = watchdog != 0 ? watchdog / 4 : no_limit_ns;
  const bool contended = page_.memory_contended.load(std::memory_order_relaxed) != 0;
  return std::min({window != 0 ? window : no_limit_ns, watched, contended ? short_queue_ns : no_limit_ns});
}

Accounting::Flight Accounting::waited_for(std::uint32_t commands) {
  const std::uint64_t predicted = predicted_.load(std::memory_order_relaxed);
  given_up_.commands = std::min(given_up_.commands, commands);
  given_up_.ns = given_up_.commands == 0 ? 0 : std::min(given_up_.ns, predicted);
  return {commands - given_up_.commands, predicted - given_up_.ns};
}

Accounting::Verdict Accounting::verdict(std::uint64_t next_ns, const Flight& flight) const {
  const std::uint64_t used = page_.consumed_ns.load(std::memory_order_relaxed);
  const std::uint64_t allowance = page_.allowance_ns.load(std::memory_order_acquire);
  if (used >= allowance) return Verdict::no_time;
  if (flight.commands == 0) return Verdict::go;
  if (allowance != no_limit_ns && flight.ns >= allowance - used) return Verdict::full;
  const std::uint32_t wanted = page_.queue_limit.load(std::memory_order_relaxed);
  std::uint32_t limit = wanted != 0 ? std::min(wanted, gate_window) : gate_window;
  if (others_in_vm()) limit = std::min(limit, contended_window);
  const std::uint64_t window = window_ns();
  if (flight.commands >= limit) return Verdict::full;
  // Behind one that fills the window alone a few trifles go along, such as the copy of its result: nobody
  // waits for them in any way that counts, and to send them after its end costs its client each time.
  if (flight.commands <= most_trifles && next_ns <= window / trifles_a_window) return Verdict::go;
  // One that fills the window alone goes alone, so that whoever comes waits for it only.
  return flight.ns < window && next_ns <= window ? Verdict::go : Verdict::full;
}

void Accounting::admit(std::uint64_t next_ns, const Hooks& hooks) {
  admitting_.store(true, std::memory_order_release);
  work_came();
  std::uint64_t since = 0;
  std::uint64_t moved = 0;
  std::uint64_t progress = 0;
  bool told = false;
  while (bounded() && !hooks.stopped()) {
    work_came();  // again: a rest() that had looked before may come after the one above
    const std::uint32_t refill = page_.refill.load(std::memory_order_acquire);
    const std::uint32_t flying = in_flight_.load(std::memory_order_acquire);
    measure();
    const Flight flight = waited_for(flying);
    const Verdict answer = verdict(hooks.next_ns ? hooks.next_ns() : next_ns, flight);
    if (answer == Verdict::go) break;
    const std::uint64_t now = now_ns();
    const std::uint64_t ended = page_.progress.load(std::memory_order_relaxed);
    if (since == 0 || ended != progress) moved = now;
    if (since == 0) since = now;
    progress = ended;
    if (answer == Verdict::full && hooks.patience_ns && now - moved > least_patience_ns) {
      // Nothing has ended since the last time: it is still the same that holds everything up.
      const bool again = given_up_.commands != 0 && given_up_at_ == ended;
      const std::uint64_t patience = hooks.patience_ns();
      // What a command takes beside others' work is a multiple of what it takes alone.
      if (patience != UINT64_MAX &&
          now - moved > (again ? least_patience_ns : patience) + patient_factor * flight.ns) {
        given_up_ = {flying, predicted_.load(std::memory_order_relaxed)};
        given_up_at_ = ended;
        continue;
      }
    }
    if (answer == Verdict::no_time) {
      hooks.before_sleep();
      page_.blocked.store(1);
      if (!told) wake_broker();
      told = true;
      hooks.sleep(page_.refill, refill, gate_sleep_ns);
      page_.blocked.store(0);
    } else if (now - since < hooks.spin_ns) {
      hooks.poll();
      if (in_flight_.load(std::memory_order_acquire) == flying) cpu_relax();
    } else {
      hooks.before_sleep();
      waiting_.store(1);
      hooks.sleep(in_flight_, flying, gate_sleep_ns);
      waiting_.store(0);
    }
  }
  admitting_.store(false, std::memory_order_release);
  const std::uint64_t waited = since == 0 ? 0 : now_ns() - since;
  if (waited != 0) page_.gate_wait_ns.fetch_add(waited, std::memory_order_relaxed);
  page_.gate_wait[latency_bucket(waited)].fetch_add(1, std::memory_order_relaxed);
}

void Accounting::submitted(std::uint64_t predicted_ns) {
  // What was given up is counted off before this one hides that it has ended.
  waited_for(in_flight_.load(std::memory_order_acquire));
  page_.predicted_ns.store(predicted_.fetch_add(predicted_ns, std::memory_order_relaxed) + predicted_ns,
                           std::memory_order_relaxed);
  in_flight_.fetch_add(1);
  publish_in_flight();
}

void Accounting::finished(std::uint32_t count, std::uint64_t predicted_ns) {
  page_.predicted_ns.store(predicted_.fetch_sub(predicted_ns, std::memory_order_relaxed) - predicted_ns,
                           std::memory_order_relaxed);
  count_progress();
  const std::uint32_t before = in_flight_.fetch_sub(count);
  publish_in_flight();
  // Sequentially consistent with admit(): it sets waiting_, then futex_wait looks at in_flight_ again.
  if (waiting_.load() != 0) futex_wake(in_flight_);
  if (before == count && page_.others_wait.load(std::memory_order_relaxed) != 0) wake_broker();
}

bool Accounting::charge(std::uint64_t bytes) {
  if (!charge_quota(bytes)) return false;
  if (!take_room_ || take_room_(bytes)) return true;
  refund_quota(bytes);
  return false;
}

void Accounting::refund(std::uint64_t bytes) {
  refund_quota(bytes);
  if (give_room_) give_room_(bytes);
}

bool Accounting::charge_quota(std::uint64_t bytes) {
  const std::uint64_t quota = page_.memory_quota.load(std::memory_order_relaxed);
  if (account_ != nullptr && !account_->charge(account_place_, bytes, quota)) return false;
  std::uint64_t used = page_.memory_used.load(std::memory_order_relaxed);
  do {
    // What all of a VM hold has been looked at above.
    if (account_ == nullptr && quota != 0 && (used > quota || quota - used < bytes)) return false;
  } while (!page_.memory_used.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
  if (page_.memory_peak.load(std::memory_order_relaxed) < used + bytes) {
    page_.memory_peak.store(used + bytes, std::memory_order_relaxed);
  }
  return true;
}

void Accounting::refund_quota(std::uint64_t bytes) {
  page_.memory_used.fetch_sub(bytes, std::memory_order_relaxed);
  if (account_ != nullptr) account_->refund(account_place_, bytes);
}

}  // namespace vgpu::worker
