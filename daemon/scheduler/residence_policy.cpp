#include "daemon/scheduler/residence_policy.hpp"

#include <algorithm>

namespace vgpu::daemon {
namespace {

// A stay lasts at least so many times what moving out and in again took.
constexpr std::uint64_t kStayPerMove = 4;
// Who has waited for so many minimum residences is served as the highest class is.
constexpr std::uint64_t kAging = 4;

std::uint64_t less(std::uint64_t from, std::uint64_t what) {
  return from > what ? from - what : 0;
}

std::uint64_t sum(std::span<const Tenant> tenants, ClientId except, std::uint64_t (*of)(const Tenant&)) {
  std::uint64_t total = 0;
  for (const Tenant& tenant : tenants) {
    if (tenant.client != except) total += of(tenant);
  }
  return total;
}

std::uint64_t held(const Tenant& tenant) {
  return tenant.fixed + tenant.movable;
}

// One plan in the making.
class Planner {
 public:
  Planner(std::uint64_t now, std::uint64_t capacity, const ResidenceOptions& options,
          std::span<const Tenant> tenants)
      : now_(now), capacity_(capacity), options_(options), tenants_(tenants) {
    std::uint64_t granted = 0;
    for (const Tenant& tenant : tenants) {
      granted += tenant.granted;
      if (tenant.ordered) coming_ += less(tenant.granted, tenant.fixed);
    }
    free_ = less(capacity, granted);
  }

  ResidencePlan plan() {
    std::vector<const Tenant*> asking;
    for (const Tenant& tenant : tenants_) {
      if (tenant.asks && !tenant.ordered) asking.push_back(&tenant);
    }
    std::stable_sort(asking.begin(), asking.end(), [this](const Tenant* a, const Tenant* b) {
      // One that has a part of its memory here comes first: two such could wait for each other.
      if (a->arriving != b->arriving) return a->arriving;
      if (level(*a) != level(*b)) return level(*a) < level(*b);
      return a->asked_ns < b->asked_ns;
    });
    // Who is on the device and wants a little more gets it while there is some: its stay ends all the same.
    std::erase_if(asking, [this](const Tenant* tenant) { return present(*tenant) && serve(*tenant); });
    // What comes free for the first must not go to those behind it.
    auto next = asking.begin();
    while (next != asking.end() && !present(**next) && serve(**next)) ++next;
    if (next != asking.end()) make_room(**next);
    return std::move(plan_);
  }

 private:
  static bool present(const Tenant& tenant) { return !tenant.out && tenant.movable != 0; }

  [[nodiscard]] bool aged(const Tenant& asker) const {
    return now_ >= asker.asked_ns + kAging * options_.minimum_residence_ns;
  }
  // As its requests are served.
  [[nodiscard]] unsigned level(const Tenant& asker) const { return aged(asker) ? 0 : asker.level; }

  // True when the request is settled.
  bool serve(const Tenant& tenant) {
    if (tenant.wanted_fixed > tenant.fixed && tenant.wanted > held(tenant) &&
        tenant.wanted_fixed > most_fixed(tenant.client, capacity_, tenants_)) {
      return refuse(tenant);
    }
    if (tenant.wanted <= tenant.granted && !tenant.short_of) {
      plan_.grants.push_back({tenant.client, tenant.granted});
      return true;
    }
    const bool grows = tenant.wanted > held(tenant);
    if (grows && tenant.wanted > most_residence(tenant.client, capacity_, options_, tenants_)) {
      return refuse(tenant);
    }
    const std::uint64_t need = less(tenant.wanted, tenant.granted);
    if (tenant.short_of || need > free_) return false;
    free_ -= need;
    plan_.grants.push_back({tenant.client, tenant.wanted});
    return true;
  }

  bool refuse(const Tenant& tenant) {
    plan_.refusals.push_back(tenant.client);
    return true;
  }

  void make_room(const Tenant& asker) {
    std::uint64_t missing = less(asker.wanted, asker.granted);
    missing = asker.short_of ? std::max<std::uint64_t>(missing, 1) : less(missing, free_);
    missing = less(missing, coming_);
    if (missing == 0) return give_part(asker);
    std::vector<const Tenant*> allowed;
    std::uint64_t could = 0;
    bool later = false;
    for (const Tenant& tenant : tenants_) {
      const std::uint64_t bytes = less(tenant.granted, tenant.fixed);
      if (tenant.client == asker.client || bytes == 0) continue;
      if (tenant.arriving) later = true;
      if (tenant.out || tenant.arriving || tenant.ordered) continue;
      const std::uint64_t from = movable_from(tenant, asker);
      if (from <= now_) {
        allowed.push_back(&tenant);
        could += bytes;
      } else {
        later = true;
        plan_.look_again_ns = std::min(plan_.look_again_ns, from - now_);
      }
    }
    // Nobody is moved before it is enough.
    if (could < missing) {
      const bool alone = !later && coming_ == 0 && could == 0 && plan_.grants.empty();
      const bool grows = asker.wanted > held(asker);
      if (alone && grows && asker.short_of) refuse(asker);
      // Nobody could make room for what it had before: the device knows better than these numbers.
      if (alone && !grows && !asker.short_of) plan_.grants.push_back({asker.client, asker.wanted});
      return;
    }
    plan_.look_again_ns = kUnlimited;
    std::stable_sort(allowed.begin(), allowed.end(), [this](const Tenant* a, const Tenant* b) {
      const bool a_idle = idle(*a);
      const bool b_idle = idle(*b);
      if (a_idle != b_idle) return a_idle;
      if (a_idle && a->busy_ns != b->busy_ns) return a->busy_ns < b->busy_ns;
      if (a->level != b->level) return a->level > b->level;
      return a->since_ns < b->since_ns;
    });
    for (const Tenant* victim : allowed) {
      if (missing == 0) break;
      plan_.orders.push_back(victim->client);
      missing = less(missing, less(victim->granted, victim->fixed));
    }
    give_part(asker);
  }

  // Who comes back need not wait until the others have left altogether: the host's memory then never holds
  // both.
  void give_part(const Tenant& asker) {
    if (!asker.out || asker.short_of || free_ == 0 || asker.wanted <= asker.granted) return;
    const std::uint64_t part = std::min(free_, asker.wanted - asker.granted);
    plan_.grants.push_back({asker.client, asker.granted + part, false});
  }

  // Whose moves take long is not moved for a short pause: on average they would cost more than it brings.
  [[nodiscard]] std::uint64_t idle_from(const Tenant& tenant) const {
    return tenant.busy_ns + std::max(options_.idle_after_ns, tenant.move_ns);
  }

  [[nodiscard]] bool idle(const Tenant& tenant) const { return now_ >= idle_from(tenant); }

  // From when on this one may be moved out for the asker.
  [[nodiscard]] std::uint64_t movable_from(const Tenant& tenant, const Tenant& asker) const {
    const std::uint64_t stay = std::max(options_.minimum_residence_ns, kStayPerMove * tenant.move_ns);
    std::uint64_t from = tenant.since_ns + stay;
    if (tenant.level < level(asker)) {
      from = std::max(from, asker.asked_ns + kAging * options_.minimum_residence_ns);
    }
    from = std::min(from, idle_from(tenant));
    return std::max(from, tenant.not_before_ns);
  }

  const std::uint64_t now_;
  const std::uint64_t capacity_;
  const ResidenceOptions& options_;
  const std::span<const Tenant> tenants_;
  std::uint64_t free_ = 0;
  std::uint64_t coming_ = 0;  // of those who have been told to move out
  ResidencePlan plan_;
};

}  // namespace

std::uint64_t most_fixed(ClientId client, std::uint64_t capacity, std::span<const Tenant> tenants) {
  const std::uint64_t taken = sum(tenants, client, [](const Tenant& of) { return of.fixed; });
  std::uint64_t largest = 0;
  for (const Tenant& tenant : tenants) {
    if (tenant.client != client) largest = std::max(largest, tenant.movable);
  }
  return less(capacity, taken + largest);
}

std::uint64_t most_residence(ClientId client, std::uint64_t capacity, const ResidenceOptions& options,
                             std::span<const Tenant> tenants) {
  std::uint64_t own_fixed = 0;
  for (const Tenant& tenant : tenants) {
    if (tenant.client == client) own_fixed = tenant.fixed;
  }
  const std::uint64_t fixed = sum(tenants, client, [](const Tenant& of) { return of.fixed; });
  const std::uint64_t movable = sum(tenants, client, [](const Tenant& of) { return of.movable; });
  // Either all fit at once, or the host's memory has room for all but the smallest: somebody always is on the
  // device, and moves in as others move out.
  const std::uint64_t beside = less(capacity, fixed + movable);
  std::uint64_t smallest = UINT64_MAX;
  for (const Tenant& tenant : tenants) {
    if (tenant.client != client && tenant.movable != 0) smallest = std::min(smallest, tenant.movable);
  }
  std::uint64_t swapped = capacity;
  if (smallest != UINT64_MAX) {
    swapped = movable <= options.host_limit ? options.host_limit - movable + smallest + own_fixed : 0;
  }
  return std::min(less(capacity, fixed), std::max(beside, swapped));
}

ResidencePlan plan_residence(std::uint64_t now_ns, std::uint64_t capacity, const ResidenceOptions& options,
                             std::span<const Tenant> tenants) {
  return Planner(now_ns, capacity, options, tenants).plan();
}

}  // namespace vgpu::daemon
