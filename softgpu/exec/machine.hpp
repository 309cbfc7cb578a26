// The warp machine: divergence, rejoining, calls, barriers; the ops that every group may use, and running a
// block.
//
// A warp is a tree of splits. A branch that divides a split makes it the parent of the parts, waiting at the
// branch's rejoin point; a part that gets there dies, and the last one hands control back. Any part may run
// at any time, so a part that spins is set aside after a budget and the others go on, those already waiting
// at a rejoin point included.
#pragma once

#include <deque>
#include <mutex>
#include <unordered_map>

#include "softgpu/exec/code.hpp"

namespace softgpu::exec {

/// Frames of the functions of one kernel for one worker thread, with their constants filled in.
class FramePool {
 public:
  Frame* take(const FunctionCode& code);
  void give(Frame* frame);
  FramePool() = default;
  FramePool(const FramePool&) = delete;
  FramePool& operator=(const FramePool&) = delete;
  ~FramePool();

 private:
  std::unordered_map<const FunctionCode*, std::vector<Frame*>> free_;
  std::vector<std::unique_ptr<Frame>> all_;
};

/// A kernel with every function it can reach.
struct KernelCode {
  std::vector<std::unique_ptr<FunctionCode>> functions;
  std::unordered_map<std::uint32_t, FunctionCode*> by_index;
  const FunctionCode* entry = nullptr;
  std::uint32_t static_shared = 0;
  std::uint32_t stack_bytes = 0;  ///< local memory a lane
};

class DeviceHeap;

/// One grid in execution.
struct GridRun {
  const KernelCode* code = nullptr;
  Dim3 grid, block;
  std::uint32_t dynamic_shared = 0;
  std::uint64_t id = 0;
  std::vector<std::uint64_t> params;  ///< the parameter buffer, 8-aligned
  std::size_t params_size = 0;
  DeviceHeap* heap = nullptr;
  const std::atomic<bool>* cancel = nullptr;
  std::string_view kernel_name;
  alignas(64) std::uint32_t workspace[16] = {};  ///< cooperative_groups' grid barrier lives here
  bool cooperative = false;

  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> executed{0}, busy_ns{0};
  std::mutex mutex;
  LaunchResult result;  ///< first fault, under `mutex`
  std::uint64_t total_blocks = 0, next_block = 0, finished_blocks = 0;
  unsigned running = 0;  ///< workers inside
  unsigned resident = 0;
  std::deque<std::unique_ptr<Block>> parked;
  std::vector<std::unique_ptr<Block>> spare;
};

enum class BlockState : std::uint8_t { finished, yielded, faulted };

/// Prepares `block` (fresh or used before) to run as block `index`.
void start_block(Context& c, Block& block, GridRun& grid, std::uint64_t index);
/// Runs until the block ends, faults, or all its warps only spin. The grid's result is set on a fault.
BlockState run_block(Context& c, Block& block);

// --- ops of general use
const Op* op_block(Context& c, const Op* op);   ///< a basic block's start: counts, rejoins
const Op* op_branch(Context& c, const Op* op);  ///< r0 predicate, r1 distance to target, r2 to rejoin point
const Op* op_branch_not(Context& c, const Op* op);
const Op* op_branch_back(Context& c,
                         const Op* op);  ///< the same for backward targets: takes aux from the budget
const Op* op_branch_back_not(Context& c, const Op* op);
const Op* op_jump(Context& c, const Op* op);  ///< r1 distance
const Op* op_jump_back(Context& c, const Op* op);
const Op* op_branch_table(Context& c, const Op* op);
const Op* op_guard(Context& c, const Op* op);  ///< r0 predicate, imm ops to skip
const Op* op_guard_not(Context& c, const Op* op);
const Op* op_not_predicate(Context& c, const Op* op);
const Op* op_return(Context& c, const Op* op);
const Op* op_exit(Context& c, const Op* op);
const Op* op_trap(Context& c, const Op* op);
const Op* op_call(Context& c, const Op* op);
const Op* op_call_indirect(Context& c, const Op* op);
const Op* op_barrier(Context& c, const Op* op);
const Op* op_yield(Context& c, const Op* op);
const Op* op_unsupported(Context& c, const Op* op);
const Op* op_nothing(Context& c, const Op* op);
const Op* op_local_address64(Context& c, const Op* op);
const Op* op_local_address32(Context& c, const Op* op);
const Op* op_param_address(Context& c, const Op* op);
const Op* op_alloca(Context& c, const Op* op);
const Op* op_stacksave(Context& c, const Op* op);
const Op* op_stackrestore(Context& c, const Op* op);
const Op* op_widen_u32(Context& c, const Op* op);
const Op* op_narrow_u64(Context& c, const Op* op);
const Op* op_narrow_u32_u16(Context& c, const Op* op);

// --- native device functions (runtime.cpp)
const Op* op_vprintf(Context& c, const Op* op);
const Op* op_malloc(Context& c, const Op* op);
const Op* op_free(Context& c, const Op* op);
const Op* op_assertfail(Context& c, const Op* op);

/// A special register: handler, bytes of its value, and the handler's immediate; fn is nullptr for unknown
/// names.
struct SpecialRegister {
  Handler fn = nullptr;
  std::uint32_t bytes = 4;
  std::uint64_t imm = 0;
};
SpecialRegister special_register(std::string_view name, std::string_view element);

/// Called by a warp-synchronous op first: nullptr means go on; otherwise return what it says (via `out`).
/// `need` holds the lanes that must be there.
bool wait_for_lanes(Context& c, const Op* op, std::uint32_t need, const Op*& out);

}  // namespace softgpu::exec
