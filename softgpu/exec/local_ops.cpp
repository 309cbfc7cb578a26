// Addresses of parameters and of local memory, the stack, and registers that change their width.
#include <algorithm>

#include "softgpu/exec/fault.hpp"
#include "softgpu/exec/splits.hpp"

namespace softgpu::exec {

namespace {
template <class T>
void put(Context& c, const Op* op, T value) {
  T* d = reg<T>(c, op->r[0]);
  for (unsigned i = 0; i < lanes; ++i) d[i] = (c.mask >> i & 1) != 0 ? value : d[i];
}
// A place in local memory, in a register of the width (in bytes) that op->aux says.
void put_local(Context& c, const Op* op, std::uint64_t place) {
  if (op->aux == 8) {
    put<std::uint64_t>(c, op, place);
  } else {
    put<std::uint32_t>(c, op, static_cast<std::uint32_t>(place));
  }
}
// The greatest value that a lane has in such a register.
std::uint64_t most_of(Context& c, const Op* op, std::uint32_t offset) {
  std::uint64_t most = 0;
  for (unsigned i = 0; i < lanes; ++i) {
    if ((c.mask >> i & 1) == 0) continue;
    const std::uint64_t n =
        op->aux == 8 ? reg<std::uint64_t>(c, offset)[i] : reg<std::uint32_t>(c, offset)[i];
    most = std::max(most, n);
  }
  return most;
}
Frame& frame_of(Context& c) {
  return *split(*c.warp, c.warp->current).frame;
}
}  // namespace

const Op* op_local_address64(Context& c, const Op* op) {
  put<std::uint64_t>(c, op, frame_of(c).local_base + op->imm);
  return op + 1;
}
const Op* op_local_address32(Context& c, const Op* op) {
  put<std::uint32_t>(c, op, frame_of(c).local_base + static_cast<std::uint32_t>(op->imm));
  return op + 1;
}
const Op* op_param_address(Context& c, const Op* op) {
  put<std::uint64_t>(c, op, reinterpret_cast<std::uint64_t>(c.grid->params.data()) + op->imm);
  return op + 1;
}
const Op* op_alloca(Context& c, const Op* op) {
  Frame& f = frame_of(c);
  const std::uint64_t most = most_of(c, op, op->r[1]);
  const std::uint64_t align = std::max<std::uint64_t>(op->imm, 16);
  const std::uint64_t base = (f.local_top + align - 1) / align * align;
  if (most > c.grid->code->stack_bytes || base + most > c.grid->code->stack_bytes)
    raise_fault(c, op, Fault::stack_overflow, 0, "alloca beyond a thread's local memory");
  f.local_top = static_cast<std::uint32_t>(base + most);
  put_local(c, op, base);
  return op + 1;
}
const Op* op_stacksave(Context& c, const Op* op) {
  put_local(c, op, frame_of(c).local_top);
  return op + 1;
}
const Op* op_stackrestore(Context& c, const Op* op) {
  Frame& f = frame_of(c);
  const std::uint64_t most = most_of(c, op, op->r[0]);
  if (f.references == 1 && most >= f.local_base && most <= f.local_top)
    f.local_top = static_cast<std::uint32_t>(most);
  return op + 1;
}
const Op* op_widen_u32(Context& c, const Op* op) {
  auto* d = reg<std::uint64_t>(c, op->r[0]);
  const auto* a = reg<std::uint32_t>(c, op->r[1]);
  for (unsigned i = 0; i < lanes; ++i) d[i] = (c.mask >> i & 1) != 0 ? a[i] : d[i];
  return op + 1;
}
const Op* op_narrow_u64(Context& c, const Op* op) {
  auto* d = reg<std::uint32_t>(c, op->r[0]);
  const auto* a = reg<std::uint64_t>(c, op->r[1]);
  for (unsigned i = 0; i < lanes; ++i)
    d[i] = (c.mask >> i & 1) != 0 ? static_cast<std::uint32_t>(a[i]) : d[i];
  return op + 1;
}
const Op* op_narrow_u32_u16(Context& c, const Op* op) {
  auto* d = reg<std::uint16_t>(c, op->r[0]);
  const auto* a = reg<std::uint32_t>(c, op->r[1]);
  for (unsigned i = 0; i < lanes; ++i)
    d[i] = (c.mask >> i & 1) != 0 ? static_cast<std::uint16_t>(a[i]) : d[i];
  return op + 1;
}

}  // namespace softgpu::exec
