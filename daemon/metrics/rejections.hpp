// Who was refused, how often and why: counts by user, class and reason. Bounded, since anybody may be refused
// as often as he likes. Refuses nobody.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <compare>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <tuple>
#include <vector>

namespace vgpu::daemon {

enum class RejectionReason {
  rule,        // a rule refuses it
  quarantine,  // its program is in quarantine
  limit,       // there are too many clients: of all, of its user, of its class
  device,      // no device for it: none that it may use or asks for, or that one cannot serve
  worker,      // its device has no worker for it, or none in time
  version,     // its library is of another build
  handshake,   // too many connections that have said nothing yet
  internal,    // vgpud is out of memory or descriptors
};

// "rule", "quarantine", ...
[[nodiscard]] const char* to_string(RejectionReason reason);

struct Rejection {
  uid_t uid = 0;
  std::string client_class;  // empty: it was refused before it had one
  RejectionReason reason = RejectionReason::internal;
  std::uint64_t count = 0;
  // Of the last one; empty where it is not known.
  std::string program, sentence;
  std::chrono::steady_clock::time_point last;
};

// One refusal, by which who waits for a process learns that it was this one's.
struct RefusedClient {
  std::uint64_t number = 0;  // grows by one with each
  uid_t uid = 0;
  pid_t pid = 0;
  std::vector<pid_t> ancestors;  // parent first
  std::string sentence;
};

// Not thread-safe. The caller says what time it is.
class Rejections {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  static constexpr std::size_t kMost = 256;  // what was counted longest ago gives way
  static constexpr std::size_t kMostRecent = 64;

  void count(uid_t uid, const std::string& client_class, RejectionReason reason, const std::string& program,
             const std::string& sentence, TimePoint now);
  // Keeps who it was, beside count(); the number is given here.
  void remember(RefusedClient refused);
  // The last kMostRecent ones, oldest first.
  [[nodiscard]] const std::deque<RefusedClient>& recent() const { return recent_; }
  // As an earlier vgpud had counted.
  void restore(const Rejection& rejection);
  // By user, class and reason.
  [[nodiscard]] std::vector<Rejection> all() const;

 private:
  using Key = std::tuple<uid_t, std::string, RejectionReason>;
  Rejection& entry(uid_t uid, const std::string& client_class, RejectionReason reason);

  std::map<Key, Rejection> entries_;
  std::deque<RefusedClient> recent_;
  std::uint64_t last_number_ = 0;
};

}  // namespace vgpu::daemon
