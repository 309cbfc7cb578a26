// How long a client's commands take on the device, learned from those that were timed: a moving estimate for
// each kernel with its launch configuration, and for each executable graph. Never asks a driver.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <random>
#include <vector>

namespace vgpu::worker {

/// What is expected of a command before it is submitted.
struct Prediction {
  std::uint64_t key = 0;
  std::uint64_t ns = 0;  ///< expected device time
  bool known = false;    ///< enough commands of its kind were timed
  bool time_it = false;  ///< this one is to be timed
  bool hold = false;     ///< its stream is to be held for that, where it can be
  bool awaited = false;  ///< enough of its kind are being timed, and none of them has ended yet
};

/// Names a kind of command: mixes `value` into `key`.
constexpr std::uint64_t mix_key(std::uint64_t key, std::uint64_t value) {
  key = (key ^ value) * 0x9E3779B97F4A7C15u;
  return key ^ key >> 29;
}

class Estimates {
 public:
  static constexpr std::uint64_t unknown_ns = 50'000;  ///< expected of what was never timed
  static constexpr unsigned first_samples = 3;         ///< timed at once, before an estimate is believed
  /// Afterwards one of so many commands of all kinds, on average: by chance, since programs repeat
  /// themselves, and at most one of twice as many.
  static constexpr unsigned sample_every = 64;
  /// While a kind's samples tell the time of sending it, too: so many more are timed at once, held; and later
  /// one of so many that are timed.
  static constexpr unsigned held_samples = 2;
  static constexpr unsigned hold_every = 8;

  /// Counts a command of `key` and says what to expect. By one thread.
  Prediction predict(std::uint64_t key);
  /// What to expect of it now; counts nothing. By the same thread.
  Prediction look(std::uint64_t key);
  /// A command that was to be timed is not. By the same thread.
  void not_timed(std::uint64_t key) { slot(key).untimed = true; }
  /// A command of `key` took `ns`. Not `exact`: the device waited for it to be sent, so it may have been
  /// less; that counts only as long as nothing better is known. By any thread.
  void learn(std::uint64_t key, std::uint64_t ns, bool exact = true);

 private:
  static constexpr std::size_t slots = 2048;  // a power of two
  static constexpr std::size_t ways = 4;
  struct Slot {
    std::uint64_t key = 0;
    float ns = 0;
    std::uint32_t samples = 0;
    std::uint32_t uses = 0;
    std::uint32_t timed = 0;    // commands chosen to be timed
    std::uint16_t held = 0;     // of these, with a held stream
    std::uint16_t inexact = 0;  // samples since the last exact one
    bool exact = false;         // what is known is
    bool untimed = false;       // of those chosen, some could not be timed: nothing may ever be learned
  };
  struct Sample {
    std::uint64_t key;
    std::uint64_t ns;
    bool exact;
  };
  Slot& slot(std::uint64_t key);
  /// Whether the command at hand is that one.
  bool drawn();
  void take_in();

  std::array<Slot, slots> table_{};
  std::minstd_rand chance_;
  unsigned left_ = sample_every;  // commands until the next one is drawn
  std::atomic<bool> news_{false};
  std::mutex mutex_;
  std::vector<Sample> learned_;
};

}  // namespace vgpu::worker
