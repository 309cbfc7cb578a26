#include "daemon/session/ipc_registry.hpp"

#include <utility>

namespace vgpu::daemon {

bool IpcRegistry::add(const IpcToken& token, Entry entry) {
  if (const auto known = entries_.find(token); known != entries_.end()) {
    // Offered again after a restart: nothing new.
    return known->second.session == entry.session && known->second.kind == entry.kind;
  }
  Count& count = counts_[entry.session];
  const bool descriptor = static_cast<bool>(entry.fd);
  if (count.offers == max_offers || (descriptor && count.descriptors == max_descriptors)) return false;
  ++count.offers;
  if (descriptor) ++count.descriptors;
  entries_.emplace(token, std::move(entry));
  return true;
}

IpcRegistry::Entries::iterator IpcRegistry::erase(Entries::iterator entry) {
  const auto count = counts_.find(entry->second.session);
  if (count != counts_.end()) {
    if (entry->second.fd) --count->second.descriptors;
    if (--count->second.offers == 0) counts_.erase(count);
  }
  return entries_.erase(entry);
}

void IpcRegistry::remove(const IpcToken& token, std::uint64_t session) {
  const auto found = entries_.find(token);
  if (found != entries_.end() && found->second.session == session) erase(found);
}

void IpcRegistry::opened(std::uint64_t maker, std::uint64_t by) {
  openers_[maker].insert(by);
}

bool IpcRegistry::opened_alone(std::uint64_t maker, std::uint64_t by) const {
  const auto found = openers_.find(maker);
  return found != openers_.end() && found->second.size() == 1 && found->second.contains(by);
}

void IpcRegistry::forget_session(std::uint64_t session) {
  for (auto opened = openers_.begin(); opened != openers_.end();) {
    opened->second.erase(session);
    opened = opened->second.empty() ? openers_.erase(opened) : std::next(opened);
  }
  if (!counts_.contains(session)) return;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    entry = entry->second.session == session ? erase(entry) : std::next(entry);
  }
}

const IpcRegistry::Entry* IpcRegistry::find(const IpcToken& token, IpcKind kind) const {
  const auto found = entries_.find(token);
  return found != entries_.end() && found->second.kind == kind ? &found->second : nullptr;
}

}  // namespace vgpu::daemon
