// What timing by events adds to a command's own time on a GPU. Measures once; does not choose what is timed.
#pragma once

#include <cstdint>

#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// How far apart, in ns, two events are that follow each other with nothing between them, in a stream whose
/// device has other work before: the median of several, in the current context. 0 where that cannot be
/// measured. Waits for the device; takes about a millisecond and, meanwhile, 64 MiB of its memory.
std::uint64_t event_gap_ns(const DriverTable& driver);

/// A command's own time, of what was measured from the event before it to that behind it (`between_ns`).
/// `drained`: the stream had got to the first event before the command was sent, which took its caller
/// `sending_ns`; so the device waited for it.
///
/// On an H100, where the gap is 1.9 us, kernels of known length were 3.8 us longer between their events
/// behind other work, or in a stream that was held; on an idle stream they were 2.3 us longer still, with
/// 3.5 us to send them (docs/decisions.md, 102 and 104).
std::uint64_t own_time_ns(std::uint64_t between_ns, std::uint64_t gap_ns, bool drained,
                          std::uint64_t sending_ns);

}  // namespace vgpu::worker
