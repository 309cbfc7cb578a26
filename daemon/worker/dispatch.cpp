#include "daemon/worker/dispatch.hpp"

#include <cstring>
#include <iterator>

#include "daemon/worker/session.hpp"

namespace vgpu::worker {
namespace {

/// Copies a record's fields out of `bytes`; false when it is too short, or longer than a record without a
/// tail is.
template <class Record>
bool read_record(std::span<const std::byte> bytes, Record& record, std::span<const std::byte>& tail) {
  if (bytes.size() < sizeof(Record)) return false;
  std::memcpy(static_cast<void*>(&record), bytes.data(), sizeof(Record));
  tail = bytes.subspan(sizeof(Record));
  return Record::kTail || tail.empty();
}

#include "vgpu/worker_dispatch.inc"

}  // namespace

Runner find_runner(std::uint16_t call) {
  return call < std::size(runners) ? runners[call] : nullptr;
}

}  // namespace vgpu::worker
