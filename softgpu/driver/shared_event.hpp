// An event that several processes record and wait for: two counters in a memfd that all of them map. A wait
// is for the record that was the last one when it was asked for. Never: blocks, or knows streams.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "softgpu/memory/shared_file.hpp"

namespace softgpu {

class EventArena;

/// What an IPC handle of an event says.
struct SharedEventPlace {
  SharedFile file;
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;  ///< counts the events that were in this slot
};

/// Thread-safe. The slot is free again when no process holds it.
class SharedEvent {
 public:
  /// In memory of this process; nullptr when there is none.
  static std::shared_ptr<SharedEvent> create();
  /// Another process's; nullptr when there is no such event.
  static std::shared_ptr<SharedEvent> open(const SharedEventPlace& place);
  ~SharedEvent();
  SharedEvent(const SharedEvent&) = delete;
  SharedEvent& operator=(const SharedEvent&) = delete;

  SharedEventPlace place() const;
  /// True when this process made it.
  bool own() const;

  /// Records it: the number to finish() with when the stream gets there.
  std::uint64_t begin();
  void finish(std::uint64_t number);
  /// The last record's number, 0 before the first.
  std::uint64_t recorded() const;
  /// Whether that record has been reached; also when the process that made the last one is gone.
  bool passed(std::uint64_t number) const;

 private:
  SharedEvent(std::shared_ptr<EventArena> arena, std::uint32_t slot);

  std::shared_ptr<EventArena> arena_;
  std::uint32_t slot_;
};

}  // namespace softgpu
