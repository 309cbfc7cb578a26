#include "daemon/metrics/rejections.hpp"

#include <algorithm>
#include <utility>

namespace vgpu::daemon {

const char* to_string(RejectionReason reason) {
  switch (reason) {
    case RejectionReason::rule:
      return "rule";
    case RejectionReason::quarantine:
      return "quarantine";
    case RejectionReason::limit:
      return "limit";
    case RejectionReason::device:
      return "device";
    case RejectionReason::worker:
      return "worker";
    case RejectionReason::version:
      return "version";
    case RejectionReason::handshake:
      return "handshake";
    case RejectionReason::internal:
      break;
  }
  return "internal";
}

Rejection& Rejections::entry(uid_t uid, const std::string& client_class, RejectionReason reason) {
  Key key{uid, client_class, reason};
  if (const auto known = entries_.find(key); known != entries_.end()) return known->second;
  if (entries_.size() >= kMost) {
    entries_.erase(std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
      return a.second.last < b.second.last;
    }));
  }
  Rejection& fresh = entries_[std::move(key)];
  fresh.uid = uid;
  fresh.client_class = client_class;
  fresh.reason = reason;
  return fresh;
}

void Rejections::count(uid_t uid, const std::string& client_class, RejectionReason reason,
                       const std::string& program, const std::string& sentence, TimePoint now) {
  Rejection& counted = entry(uid, client_class, reason);
  ++counted.count;
  counted.program = program;
  counted.sentence = sentence;
  counted.last = now;
}

void Rejections::remember(RefusedClient refused) {
  refused.number = ++last_number_;
  recent_.push_back(std::move(refused));
  if (recent_.size() > kMostRecent) recent_.pop_front();
}

void Rejections::restore(const Rejection& rejection) {
  entry(rejection.uid, rejection.client_class, rejection.reason) = rejection;
}

std::vector<Rejection> Rejections::all() const {
  std::vector<Rejection> list;
  list.reserve(entries_.size());
  for (const auto& [key, rejection] : entries_) list.push_back(rejection);
  return list;
}

}  // namespace vgpu::daemon
