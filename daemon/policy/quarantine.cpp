#include "daemon/policy/quarantine.hpp"

#include <algorithm>

namespace vgpu::daemon {

Quarantine::Record& Quarantine::record(const Subject& subject) {
  const auto found = records_.find(subject);
  if (found != records_.end()) return found->second;
  if (records_.size() >= kMostSubjects) {
    // Rather the faults of some program are forgotten than memory grows without bound.
    const auto oldest = std::min_element(records_.begin(), records_.end(), [](const auto& a, const auto& b) {
      return std::pair(a.second.quarantined, a.second.last_fault) <
             std::pair(b.second.quarantined, b.second.last_fault);
    });
    records_.erase(oldest);
  }
  Record& made = records_[subject];
  made.entry.subject = subject;
  return made;
}

void Quarantine::expire(TimePoint now) {
  std::erase_if(records_, [now](const auto& known) {
    const Record& record = known.second;
    if (record.quarantined) return record.entry.until && *record.entry.until <= now;
    return record.last_fault + kFaultMemory <= now;
  });
}

bool Quarantine::fault(const Subject& subject, unsigned limit, std::chrono::microseconds how_long,
                       const std::string& why, TimePoint now) {
  if (limit == 0) return false;
  expire(now);
  Record& known = record(subject);
  ++known.entry.faults;
  known.last_fault = now;
  if (known.quarantined || known.entry.faults < limit) return false;
  put(subject, how_long, why, now);
  return true;
}

void Quarantine::put(const Subject& subject, std::chrono::microseconds how_long, const std::string& why,
                     TimePoint now) {
  Record& known = record(subject);
  known.quarantined = true;
  known.last_fault = now;
  known.entry.why = why;
  known.entry.since = now;
  known.entry.until = how_long.count() == 0 ? std::nullopt : std::optional(now + how_long);
}

void Quarantine::restore(const QuarantineEntry& entry) {
  Record& known = record(entry.subject);
  known.entry = entry;
  known.quarantined = true;
  known.last_fault = entry.since;
}

bool Quarantine::release(const Subject& subject, TimePoint now) {
  expire(now);
  const auto found = records_.find(subject);
  if (found == records_.end()) return false;
  const bool was = found->second.quarantined;
  records_.erase(found);
  return was;
}

const QuarantineEntry* Quarantine::find(const Subject& subject, TimePoint now) {
  expire(now);
  const auto found = records_.find(subject);
  return found != records_.end() && found->second.quarantined ? &found->second.entry : nullptr;
}

std::vector<QuarantineEntry> Quarantine::all(TimePoint now) {
  expire(now);
  std::vector<QuarantineEntry> list;
  for (const auto& [subject, known] : records_) {
    if (known.quarantined) list.push_back(known.entry);
  }
  return list;
}

}  // namespace vgpu::daemon
