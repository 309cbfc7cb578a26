#include "softgpu/exec/fault.hpp"

#include <cstdio>
#include <mutex>
#include <string>

#include "softgpu/memory/address_space.hpp"

namespace softgpu::exec {

namespace {

const char* fault_text(Fault fault) {
  switch (fault) {
    case Fault::illegal_address:
      return "illegal address";
    case Fault::misaligned_address:
      return "misaligned address";
    case Fault::illegal_instruction:
      return "illegal instruction";
    case Fault::trap:
      return "trap";
    case Fault::assert_failed:
      return "assertion failed";
    case Fault::stack_overflow:
      return "stack overflow";
    case Fault::launch_timeout:
      return "cancelled";
    case Fault::unsupported:
      return "unsupported instruction";
    case Fault::out_of_memory:
      return "out of memory";
    case Fault::none:
      break;
  }
  return "fault";
}

}  // namespace

void raise_fault(Context& c, const Op* op, Fault fault, std::uint64_t address, const char* reason) {
  auto* const point = static_cast<FaultPoint*>(current_access_point());
  point->fault = fault;
  point->address = address;
  point->op = op != nullptr ? op : c.op;
  if (reason != nullptr) std::snprintf(point->reason, sizeof point->reason, "%s", reason);
  siglongjmp(point->target, 1);
}

void report_fault(Context& c, const FaultPoint& point) {
  GridRun& grid = *c.grid;
  std::string text(grid.kernel_name);
  // An access that faulted could not say which op it belongs to; the context can.
  const Op* const op = point.op != nullptr ? point.op : c.op;
  if (op != nullptr) text += ", line " + std::to_string(op->line);
  text += ": ";
  text += point.reason[0] != 0 ? point.reason : fault_text(point.fault);
  if (point.fault == Fault::illegal_address || point.fault == Fault::misaligned_address) {
    char buffer[40];
    std::snprintf(buffer, sizeof buffer, " 0x%llx", static_cast<unsigned long long>(point.address));
    text += buffer;
  }
  const std::lock_guard lock(grid.mutex);
  if (grid.result.fault == Fault::none) {
    grid.result.fault = point.fault;
    grid.result.address = point.address;
    grid.result.reason = std::move(text);
  }
  grid.stop = true;
}

std::byte* resolve_generic(Context& c, const Op* op, unsigned lane, std::uint64_t address,
                           std::uint32_t bytes) {
  if (in_device_window(address, bytes)) return reinterpret_cast<std::byte*>(address);
  if (address - shared_window_base < shared_window_size) {
    const std::uint64_t offset = address - shared_window_base;
    if (offset + bytes <= c.shared_size) return c.shared + offset;
    raise_fault(c, op, Fault::illegal_address, address);
  }
  if (address - local_window_base < local_window_size) {
    const std::uint64_t offset = address - local_window_base;
    if (offset + bytes <= c.grid->code->stack_bytes)
      return c.local + std::size_t{lane} * c.local_stride + offset;
    raise_fault(c, op, Fault::illegal_address, address);
  }
  const auto params = reinterpret_cast<std::uint64_t>(c.grid->params.data());
  if (address - params < c.grid->params_size && c.grid->params_size - (address - params) >= bytes)
    return reinterpret_cast<std::byte*>(address);
  const auto workspace = reinterpret_cast<std::uint64_t>(&c.grid->workspace[0]);
  if (address - workspace < sizeof c.grid->workspace &&
      sizeof c.grid->workspace - (address - workspace) >= bytes)
    return reinterpret_cast<std::byte*>(address);
  const std::uint64_t page = address >> 12;
  std::uint64_t& known = c.host_pages[page & 15];
  if (known == page + 1 && (address & 4095) + bytes <= 4096) return reinterpret_cast<std::byte*>(address);
  if (host_range_allowed(page << 12, 4096)) {
    known = page + 1;
    if ((address & 4095) + bytes <= 4096) return reinterpret_cast<std::byte*>(address);
  }
  if (!host_range_allowed(address, bytes)) raise_fault(c, op, Fault::illegal_address, address);
  return reinterpret_cast<std::byte*>(address);
}

}  // namespace softgpu::exec
