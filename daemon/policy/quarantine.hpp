// Who is kept from the device for a while: programs whose work faulted too often, and whom the operator put
// there. Counts and remembers; acts on nobody (session_manager.hpp does).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <compare>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace vgpu::daemon {

// What is quarantined: one user's program.
struct Subject {
  uid_t uid = 0;
  std::string executable;  // full path; empty: whatever of that user's cannot be read

  auto operator<=>(const Subject&) const = default;  // NOLINT(modernize-use-nullptr): its own 0
};

struct QuarantineEntry {
  using TimePoint = std::chrono::steady_clock::time_point;
  Subject subject;
  std::string why;
  unsigned faults = 0;
  TimePoint since;
  std::optional<TimePoint> until;  // none: until it is released
};

// Not thread-safe. The caller says what time it is. At most kMostSubjects are remembered.
class Quarantine {
 public:
  using TimePoint = QuarantineEntry::TimePoint;
  static constexpr std::size_t kMostSubjects = 1024;
  // Faults further apart than this are not counted together.
  static constexpr std::chrono::hours kFaultMemory{1};

  // The subject's work has faulted. True when that was one too many (`limit` faults; 0: never) and it is
  // quarantined from now on, for `how_long` (0: until it is released).
  bool fault(const Subject& subject, unsigned limit, std::chrono::microseconds how_long,
             const std::string& why, TimePoint now);
  // By hand, whatever it did.
  void put(const Subject& subject, std::chrono::microseconds how_long, const std::string& why, TimePoint now);
  // As an earlier vgpud had it.
  void restore(const QuarantineEntry& entry);
  // Lets it go and forgets its faults. False when it was not quarantined.
  bool release(const Subject& subject, TimePoint now);

  // Its entry, or null when it may have the device.
  [[nodiscard]] const QuarantineEntry* find(const Subject& subject, TimePoint now);
  // Everybody in quarantine, by user and program.
  [[nodiscard]] std::vector<QuarantineEntry> all(TimePoint now);

 private:
  struct Record {
    QuarantineEntry entry;
    bool quarantined = false;
    TimePoint last_fault;
  };
  Record& record(const Subject& subject);
  void expire(TimePoint now);

  std::map<Subject, Record> records_;
};

}  // namespace vgpu::daemon
