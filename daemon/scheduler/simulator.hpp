// A device and its clients in simulated time, to try scheduling policies on: thousands of arrival patterns
// take seconds. Kernels run one at a time and to their end; each client's queue keeps its order; which
// client's kernel is next is the device's whim, which the policy cannot rely on. Used by tests only.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "daemon/scheduler/policy.hpp"

namespace vgpu::daemon::simulation {

inline constexpr std::uint64_t kUs = 1000;
inline constexpr std::uint64_t kMs = 1000 * kUs;

// What a client does: jobs of `burst` kernels, with a pause after each job has finished.
struct Program {
  Terms terms;
  std::uint64_t kernel_ns = kMs;
  std::uint64_t kernel_spread_ns = 0;  // kernels are longer by up to this, at random
  unsigned burst = 1;
  std::uint64_t pause_ns = 0;
  std::uint64_t pause_spread_ns = 0;
  std::uint64_t pause_tail_ns = 0;      // mean of an exponentially distributed part of the pause
  std::uint64_t from_ns = 0;            // comes then
  std::uint64_t until_ns = UINT64_MAX;  // starts no job later
  std::uint64_t away_from_ns = 0;       // nor between these two times
  std::uint64_t away_until_ns = 0;
};

// What became of a client.
struct Outcome {
  std::uint64_t consumed_ns = 0;
  std::uint64_t jobs = 0;
  std::uint64_t longest_wait_ns = 0;  // from wanting to submit to the next start of a kernel of its
  std::vector<std::uint64_t> job_ns;  // each job's time from its arrival to its end
};

// What a broker on a real machine meets besides.
struct Machine {
  std::uint64_t change_ns = 0;    // a kernel of another client than the last one's takes longer by this
  std::uint64_t reaction_ns = 0;  // from when a worker calls or a timer is due to the broker's look
};

//
// As the broker does, it does not look at the device while there is only one client. It looks whenever a
// kernel has ended; with a Machine, it looks when it would be woken, also while a kernel runs.
class Simulator {
 public:
  // Which of the clients whose kernels are on the device goes next.
  using Pick = std::function<std::size_t(const std::vector<std::size_t>& ready)>;

  // `window_ns`: what a client may have in flight when its grant is bounded; `brief_ns`: when it is brief.
  Simulator(std::unique_ptr<SchedulingPolicy> policy, const std::vector<Program>& programs, Pick pick,
            unsigned seed, std::uint64_t window_ns = kMs, std::uint64_t brief_ns = 100 * kUs);

  // From now on; before the first run().
  void use(const Machine& machine) { machine_ = machine; }

  void run(std::uint64_t duration_ns);

  [[nodiscard]] const Outcome& outcome(std::size_t i) const { return clients_[i].outcome; }
  // Since when it has had work and none of it has been started, as a time from then to now; 0: it has none.
  [[nodiscard]] std::uint64_t waits_ns(std::size_t i) const {
    return clients_[i].job ? now_ - clients_[i].wants_since_ns : 0;
  }
  [[nodiscard]] std::size_t clients() const { return clients_.size(); }
  // Time in which the device stood still although somebody had work, and the longest such time at a stretch.
  [[nodiscard]] std::uint64_t stalled_ns() const { return stalled_ns_; }
  [[nodiscard]] std::uint64_t longest_stall_ns() const { return longest_stall_ns_; }
  // Whether kernels of two clients were ever on the device at once.
  [[nodiscard]] bool overlapped() const { return overlapped_; }
  [[nodiscard]] std::uint64_t now_ns() const { return now_; }
  [[nodiscard]] SchedulingPolicy& policy() { return *policy_; }
  // Changes a client's terms from now on.
  void set_terms(std::size_t i, const Terms& terms);

 private:
  struct Client {
    Program program;
    Outcome outcome;
    std::deque<std::uint64_t> waiting;    // kernels not yet submitted
    std::deque<std::uint64_t> submitted;  // the first may be running
    std::uint64_t in_flight_ns = 0;
    std::uint64_t next_job_ns = 0;
    std::uint64_t job_since_ns = 0;
    std::uint64_t wants_since_ns = 0;
    std::uint64_t ended_ns = 0;  // its last job
    bool job = false;
    bool added = false;
    bool told = false;  // the broker, that it waits for a grant

    // When it begins its next job; UINT64_MAX: never.
    [[nodiscard]] std::uint64_t next() const;
    Grant grant;
    std::uint64_t granted_at_consumed = 0;
  };

  void arrive();
  void decide();
  void submit();
  [[nodiscard]] bool may_submit(const Client& client) const;
  [[nodiscard]] bool spent(const Client& client) const;
  // Whether the broker looks now.
  [[nodiscard]] bool due() const { return !machine_ || now_ >= look_at_ns_; }
  void wake_broker();
  // Begins a kernel unless one is running; false: there is none.
  bool begin_one();
  void end_one();
  // When something happens before the running kernel ends, or nothing runs; `end` at the latest.
  [[nodiscard]] std::uint64_t next_event(std::uint64_t end) const;
  void stand_still(std::uint64_t end);
  std::uint64_t spread(std::uint64_t base, std::uint64_t more);

  std::unique_ptr<SchedulingPolicy> policy_;
  std::vector<Client> clients_;
  Pick pick_;
  std::mt19937_64 random_;
  std::uint64_t window_ns_;
  std::uint64_t brief_ns_;
  std::optional<Machine> machine_;
  std::optional<std::size_t> running_;
  std::size_t ran_last_ = SIZE_MAX;
  std::uint64_t running_until_ns_ = 0;
  std::uint64_t look_at_ns_ = 0;
  std::uint64_t now_ = 0;
  std::uint64_t stalled_ns_ = 0;
  std::uint64_t longest_stall_ns_ = 0;
  std::uint64_t stall_ns_ = 0;
  bool overlapped_ = false;
  bool alone_ = false;  // there was one client at the last decision
};

// A device that prefers: the first client, the last, any.
[[nodiscard]] Simulator::Pick whim(unsigned seed);

}  // namespace vgpu::daemon::simulation
