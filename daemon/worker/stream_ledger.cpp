#include "daemon/worker/stream_ledger.hpp"

#include <algorithm>

namespace vgpu::worker {
namespace {

template <class Work>
bool covers(const StreamLedger::Scope& scope, CUcontext context, const Work& work) {
  return (scope.context == nullptr || context == scope.context) &&
         (scope.device == nullptr || work.device->accounting == scope.device);
}

}  // namespace

const StreamKey& StreamLedger::Mark::stream() const {
  return work_->key;
}

StreamLedger::StreamLedger(const std::vector<Accounting*>& devices,
                           std::function<std::size_t(CUcontext)> place_of)
    : place_of_(std::move(place_of)) {
  devices_.reserve(devices.size());
  for (Accounting* const accounting : devices) devices_.push_back({accounting});
}

const std::shared_ptr<StreamLedger::Work>& StreamLedger::work_of(const StreamKey& stream) {
  auto& work = work_[stream];
  if (!work)
    work = std::make_shared<Work>(Work{&devices_[place_of_(stream.first)], stream, 0, 0, false, false, {}});
  return work;
}

void StreamLedger::release(const Work& work, const Batch& batch) {
  if (batch.count != 0) work.device->accounting->finished(batch.count, batch.predicted_ns);
}

void StreamLedger::clean(Work& work, bool dispatcher_awake) {
  release(work, std::exchange(work.open, {}));
  work.held = false;
  if (!std::exchange(work.busy, false)) return;
  --busy_streams_;
  if (--work.device->busy_streams == 0) work.device->accounting->work_ended(dispatcher_awake);
}

void StreamLedger::submitted(const StreamKey& stream) {
  const std::lock_guard lock(mutex_);
  Work& work = *work_of(stream);
  ++work.submitted;
  if (work.busy) return;
  work.busy = true;
  ++busy_streams_;
  if (++work.device->busy_streams == 1) work.device->accounting->work_began();
}

void StreamLedger::held(const StreamKey& stream) {
  const std::lock_guard lock(mutex_);
  work_of(stream)->held = true;
}

Batch StreamLedger::batched(const StreamKey& stream, std::uint64_t predicted_ns) {
  const std::lock_guard lock(mutex_);
  Batch& open = work_of(stream)->open;
  ++open.count;
  open.predicted_ns += predicted_ns;
  return open;
}

std::vector<StreamKey> StreamLedger::batch_earlier(const Accounting& device, std::uint64_t in_all_ns,
                                                   std::uint64_t& each_ns) {
  const std::lock_guard lock(mutex_);
  std::vector<StreamKey> streams;
  for (const auto& [key, work] : work_) {
    if (work->busy && work->device->accounting == &device) streams.push_back(key);
  }
  each_ns = streams.empty() ? 0 : in_all_ns / streams.size();
  for (const StreamKey& key : streams) {
    Batch& open = work_of(key)->open;
    ++open.count;
    open.predicted_ns += each_ns;
  }
  return streams;
}

StreamLedger::Mark StreamLedger::mark(const StreamKey& stream) {
  const std::lock_guard lock(mutex_);
  const auto& work = work_of(stream);
  return {work, work->submitted, {}};
}

StreamLedger::Mark StreamLedger::fence(const StreamKey& stream) {
  const std::lock_guard lock(mutex_);
  const auto& work = work_of(stream);
  work->fenced = work->submitted;
  return {work, work->submitted, std::exchange(work->open, {})};
}

void StreamLedger::reopen(const Mark& fence) {
  const std::lock_guard lock(mutex_);
  Batch& open = fence.work_->open;
  open.count += fence.batch_.count;
  open.predicted_ns += fence.batch_.predicted_ns;
}

void StreamLedger::ended(const Mark& mark) {
  release(*mark.work_, mark.batch_);
  const std::lock_guard lock(mutex_);
  if (!mark.work_->busy || mark.work_->submitted != mark.submitted_) return;
  // A dispatcher that is not asleep may just have no CPU: it looks itself before it sleeps. It may also be at
  // the gate of another device, for as long as that takes.
  clean(*mark.work_, !asleep_.load() && devices_.size() == 1);
}

void StreamLedger::drained(const StreamKey& stream) {
  const std::lock_guard lock(mutex_);
  const auto found = work_.find(stream);
  if (found == work_.end() || !found->second->busy || found->second->device->busy_streams != 1) return;
  found->second->device->accounting->begin_anew();
}

StreamLedger::Done StreamLedger::orphan(const StreamKey& stream) {
  const std::lock_guard lock(mutex_);
  const auto orphan = std::make_shared<Orphan>(Orphan{&devices_[place_of_(stream.first)], stream.first, {}});
  orphans_.push_back(orphan);
  return [this, orphan](CUresult result) {
    std::vector<Done> waiting;
    {
      const std::lock_guard again(mutex_);
      std::erase(orphans_, orphan);
      waiting.swap(orphan->waiting);
    }
    for (const Done& done : waiting) done(result);
  };
}

void StreamLedger::forget(const StreamKey& stream) {
  const std::lock_guard lock(mutex_);
  work_.erase(stream);
}

void StreamLedger::forget_context(CUcontext context) {
  const std::lock_guard lock(mutex_);
  std::erase_if(work_, [&](const auto& entry) {
    if (entry.first.first != context) return false;
    clean(*entry.second, false);
    return true;
  });
}

void StreamLedger::forget_all() {
  const std::lock_guard lock(mutex_);
  for (const auto& [key, work] : work_) clean(*work, false);
  work_.clear();
}

bool StreamLedger::busy(const Accounting* device) const {
  const std::lock_guard lock(mutex_);
  if (device == nullptr) return busy_streams_ != 0;
  return std::any_of(devices_.begin(), devices_.end(), [device](const Device& own) {
    return own.accounting == device && own.busy_streams != 0;
  });
}

bool StreamLedger::busy(const StreamKey& stream) const {
  const std::lock_guard lock(mutex_);
  const auto found = work_.find(stream);
  return found != work_.end() && found->second->busy;
}

std::optional<StreamLedger::Mark> StreamLedger::only_busy() const {
  const std::lock_guard lock(mutex_);
  if (busy_streams_ != 1) return std::nullopt;
  for (const auto& [key, work] : work_) {
    if (work->busy) return Mark(work, work->submitted, {});
  }
  return std::nullopt;
}

bool StreamLedger::any_unfenced() const {
  const std::lock_guard lock(mutex_);
  return std::any_of(work_.begin(), work_.end(), [](const auto& entry) { return entry.second->unfenced(); });
}

std::vector<StreamLedger::Mark> StreamLedger::unfenced() const {
  const std::lock_guard lock(mutex_);
  std::vector<Mark> marks;
  for (const auto& [key, work] : work_) {
    if (work->unfenced()) marks.push_back(Mark(work, work->submitted, {}));
  }
  return marks;
}

std::vector<StreamKey> StreamLedger::unfinished(const Scope& scope, const std::function<Done()>& watch) {
  const std::lock_guard lock(mutex_);
  std::vector<StreamKey> streams;
  for (const auto& [key, work] : work_) {
    if (work->busy && covers(scope, key.first, *work)) streams.push_back(key);
  }
  for (const auto& orphan : orphans_) {
    if (covers(scope, orphan->context, *orphan)) orphan->waiting.push_back(watch());
  }
  return streams;
}

bool StreamLedger::may_wait_for_more(const Accounting& device, const StreamKey& next) const {
  const std::lock_guard lock(mutex_);
  bool next_works = false;
  for (const auto& [key, work] : work_) {
    if (!work->busy || work->device->accounting != &device) continue;
    if (work->held) return true;
    next_works = next_works || key == next;
  }
  // Of a stream that has begun nothing yet a kernel of another stream may wait, too. What is behind work of
  // its own stream waits for that in any case: so a long queue of long kernels gets no more than its window.
  return !next_works;
}

void StreamLedger::rest() {
  const std::lock_guard lock(mutex_);
  for (const Device& own : devices_) {
    if (own.busy_streams == 0) own.accounting->rest();
  }
}

}  // namespace vgpu::worker
