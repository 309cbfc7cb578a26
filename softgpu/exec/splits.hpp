// A warp's splits: the parts into which branches divide its lanes, who of them runs, and how they meet again
// (machine.hpp). For the files that run warps; ops of the instruction groups know nothing of them.
#pragma once

#include <bit>
#include <cstdint>

#include "softgpu/exec/machine.hpp"

namespace softgpu::exec {

/// What a split may execute before the others of its warp get their turn, in instructions of lanes.
inline constexpr std::int64_t slice_budget = 1 << 16;

inline std::uint32_t popcount(std::uint32_t mask) {
  return static_cast<std::uint32_t>(std::popcount(mask));
}
inline Split& split(Warp& w, std::int32_t i) {
  return w.splits[static_cast<std::size_t>(i)];
}

/// A free split's index. References to other splits die.
std::int32_t new_split(Warp& w);
/// Frees a split without children and wakes the parent that waited for it alone.
void kill(Context& c, Warp& w, std::int32_t i);
/// Makes split `i` the running one; where it goes on.
const Op* switch_to(Context& c, std::int32_t i);
/// Runs a warp-synchronous op for every split that waits at the same place in the same frame.
void run_gathered(Context& c, const Op* op, Frame* frame);
/// The next split to run of the warp, and where it goes on; nullptr when none can.
const Op* schedule(Context& c);
/// Divides the running split: `first` lanes go to `a`, the rest to `b`; they meet again at `rejoin`.
const Op* diverge(Context& c, const Op* a, std::uint32_t first, const Op* b, const Op* rejoin);
/// The budget is spent: lanes that wait at rejoin points for this warp's other lanes go on alone, in case the
/// lanes that still run spin for something only they can give.
void release_arrived(Context& c);
/// Goes on at `target`, or with another split when the running one's budget is spent.
const Op* spend(Context& c, const Op* target);
/// Whether the warp shares memory with others and must not run far ahead of them.
bool takes_turns(const Warp& w);
/// Lets the block's other warps go on; this one resumes with the running split at its pc.
const Op* end_turn(Warp& w);
/// Takes lanes out of the running split's ancestors, up to and not including the first call, whose index it
/// returns; negative: there is none.
std::int32_t leave(Warp& w, std::uint32_t mask);

/// A barrier's threads may all have arrived once lanes were released or have left.
void check_barriers(Block& block);

}  // namespace softgpu::exec
