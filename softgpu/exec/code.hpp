// Register code: what a PTX function becomes when it is decoded, and the state its handlers work on.
//
// A function is an array of Op, each a handler and its operands' offsets in a frame. A frame holds every
// register of the function for the 32 lanes of a warp, lane-contiguous: a 32-bit register is 32 x u32, a
// 16-bit one 32 x u16, a 64-bit one 32 x u64, and a predicate one u32 with a bit a lane. A handler performs
// its instruction for the lanes in Context::mask and returns the op to go on with (op + 1 mostly), or nullptr
// when the warp must stop.
//
// How to add an instruction group: write group_NAME.cpp with a decode function
//     bool decode_NAME(Builder& b, const Instruction& i)      (false: not mine; b.fail(...): mine but
//     unsupported)
// and its handlers, all within namespace SOFTGPU_ISA; list it in GROUPS of CMakeLists.txt, declare it in
// groups.hpp and add it to the table in groups.cpp. The file is compiled once for every ISA level (baseline,
// x86-64-v3, v4), so keep it free of anything but lane loops and decoding. lanes.hpp has the loops,
// builder.hpp the operands. An op has 10 operand fields; an instruction with more emits Builder::extend() ops
// behind itself and returns past them. Handlers must never write a lane outside Context::mask: another
// branch's value may live in that slot.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "softgpu/engine.hpp"
#include "softgpu/exec/pages.hpp"

namespace softgpu::exec {

struct Context;
struct Op;
using Handler = const Op* (*)(Context&, const Op*);

inline constexpr unsigned lanes = 32;
inline constexpr std::uint32_t all_lanes = 0xffffffffU;

/// MXCSR images: exceptions masked, rounding, flush and denormals-are-zero.
enum Csr : std::uint32_t {
  csr_rn = 0x1f80,
  csr_rm = 0x3f80,
  csr_rp = 0x5f80,
  csr_rz = 0x7f80,
  csr_ftz = 0x8040,
};

struct alignas(64) Op {
  Handler fn = nullptr;
  std::uint64_t imm = 0;
  std::uint32_t r[10] = {};  ///< byte offsets in the frame; branches keep op distances here
  std::uint16_t csr = 0;     ///< the MXCSR a floating-point handler needs
  std::uint16_t aux = 0;
  std::uint32_t line = 0;
};
static_assert(sizeof(Op) == 64);

/// A parameter or return value of a device function: words of 4 bytes a lane at `offset` of its frame.
struct ParamArea {
  std::uint32_t offset = 0, words = 0;
};

/// One decoded function; immutable once `ready`.
struct FunctionCode {
  std::string name;
  bool ready = false;
  bool failed = false;
  LoadError error{};
  std::vector<Op> ops;
  std::vector<std::int32_t> tables;  ///< brx.idx targets: indices into ops
  std::uint32_t frame_bytes = 0;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> constants32,
      constants64;  ///< offset, value: to broadcast
  std::vector<std::pair<std::uint32_t, std::uint32_t>> constants16;
  std::vector<std::pair<std::uint32_t, bool>> constant_predicates;
  std::uint32_t local_bytes = 0;
  std::vector<ParamArea> params, results;
  std::vector<const FunctionCode*> callees;
  bool dynamic_stack = false;  ///< alloca or indirect calls: its stack need is not known
  std::uint32_t index = 0;     ///< in its module; function pointers are function_pointer_base + 16 * index
  std::uint32_t registers = 0;
};

inline constexpr std::uint64_t function_pointer_base = 0x0000'7e00'0000'0000;

/// The registers of one activation. Reference-counted by the splits that run in it.
struct Frame {
  const FunctionCode* code = nullptr;
  std::byte* data = nullptr;
  std::uint32_t references = 0;
  std::uint32_t local_base = 0, local_top = 0;
};

/// Lanes of a warp that run together. A split with children waits for them at `pc`; its mask holds all its
/// lanes that have not exited, those of its children included.
struct Split {
  enum class State : std::uint8_t { free, ready, waiting, at_barrier, at_sync };
  const Op* pc = nullptr;
  const Op* rejoin = nullptr;  ///< the lanes have arrived when they reach this op; nullptr: at return only
  std::uint32_t mask = 0;
  std::int32_t parent = -1;
  std::uint32_t children = 0;
  State state = State::free;
  const Op* call = nullptr;  ///< waits for this call: its children return to it
  std::uint8_t barrier = 0;
  Frame* frame = nullptr;
};

struct Block;

struct Warp {
  Block* block = nullptr;
  std::vector<Split> splits;
  std::int32_t current = 0;
  std::uint32_t live = 0;  ///< lanes that have not exited
  std::uint32_t initial = 0;
  std::uint32_t index = 0;
  std::uint32_t used = 0;   ///< splits not free
  std::int64_t budget = 0;  ///< left before it counts as spinning
  bool turned = false;      ///< its turn was over; it goes on with `current`
  std::byte* local = nullptr;
  alignas(64) std::array<std::uint32_t, lanes> tid_x{}, tid_y{}, tid_z{};
};

struct Barrier {
  std::uint32_t expected = 0;  ///< threads; 0 = all of the block
  std::uint32_t arrived = 0, waiting = 0;
  std::uint32_t count = 0;  ///< reduction: threads whose predicate was true
};

struct GridRun;

/// A resident block.
struct Block {
  GridRun* grid = nullptr;
  Dim3 id;
  std::uint32_t threads = 0;  ///< alive
  std::vector<std::byte> shared_storage;
  std::byte* shared = nullptr;
  std::uint32_t shared_size = 0;
  std::vector<std::unique_ptr<Warp>> warps;
  std::array<Barrier, 16> barriers{};
  Pages local_memory;
  std::byte* local_storage = nullptr;
  std::size_t local_storage_size = 0;
  std::uint32_t next_warp = 0;
};

/// What a handler sees: the running split, cached, and its surroundings.
struct Context {
  std::byte* frame = nullptr;
  std::uint32_t mask = 0;
  std::uint32_t csr = csr_rn;
  const Op* rejoin = nullptr;
  std::uint64_t executed = 0;  ///< lane instructions
  std::int64_t budget = 0;
  std::int64_t turn = 0;  ///< instructions before another warp of the block has its turn
  Warp* warp = nullptr;
  Block* block = nullptr;
  GridRun* grid = nullptr;
  const Op* op = nullptr;  ///< set by whatever can fault, for the report
  bool yielded = false;
  bool forced_sync = false;        ///< a warp-synchronous op may run with the lanes at hand
  std::byte* local = nullptr;      ///< lane 0's local memory
  std::uint32_t local_stride = 0;  ///< bytes a lane
  std::byte* shared = nullptr;
  std::uint32_t shared_size = 0;
  class FramePool* frames = nullptr;
  std::uint64_t host_pages[16] = {};  ///< page numbers + 1 known to be allowed outside the device window
};

/// Ends the grid with `fault`; never returns. Handlers hold nothing that needs destruction when they call it.
[[noreturn]] void raise_fault(Context& c, const Op* op, Fault fault, std::uint64_t address = 0,
                              const char* reason = nullptr);

/// The host address behind a generic address, or a fault. `lane` says whose local memory it may be.
std::byte* resolve_generic(Context& c, const Op* op, unsigned lane, std::uint64_t address,
                           std::uint32_t bytes);

/// Sets MXCSR for a floating-point op; few kernels change it from op to op.
inline void use_csr(Context& c, std::uint32_t want) {
  if (c.csr != want) [[unlikely]] {
    c.csr = want;
    asm volatile("ldmxcsr %0" : : "m"(c.csr) : "memory");
  }
}

template <class T>
T* reg(Context& c, std::uint32_t offset) {
  return reinterpret_cast<T*>(c.frame + offset);
}

}  // namespace softgpu::exec
