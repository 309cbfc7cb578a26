// Device functions that the engine provides itself: vprintf, malloc, free, __assertfail.
#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>

#include "softgpu/assert_text.hpp"
#include "softgpu/exec/fault.hpp"
#include "softgpu/exec/heap.hpp"
#include "softgpu/exec/machine.hpp"
#include "softgpu/memory/address_space.hpp"

namespace softgpu::exec {

namespace {

constexpr std::uint64_t heap_bytes = std::uint64_t{8} << 20;

std::mutex sink_mutex;
std::function<void(std::string_view)>& sink() {
  static std::function<void(std::string_view)> f;
  return f;
}

std::function<void(std::string_view)>& assert_sink() {
  static std::function<void(std::string_view)> f;
  return f;
}

const Op* after(const Op* op) {
  return op + 1 + (op->aux & 0xff) + (op->aux >> 8);
}

// Argument k of a native call in `lane`: its first 8 (or 4) bytes.
std::uint64_t argument(Context& c, const Op* op, unsigned k, unsigned lane) {
  const Op& e = op[1 + (op->aux & 0xff) + k];
  const auto* words = reg<std::uint32_t>(c, e.r[0]);
  std::uint64_t value = words[lane];
  if (e.imm >= 2) value |= std::uint64_t{words[lanes + lane]} << 32;
  return value;
}

void give_result(Context& c, const Op* op, unsigned lane, std::uint64_t value) {
  if ((op->aux & 0xff) == 0) return;
  const Op& e = op[1];
  auto* words = reg<std::uint32_t>(c, e.r[0]);
  words[lane] = static_cast<std::uint32_t>(value);
  if (e.imm >= 2) words[lanes + lane] = static_cast<std::uint32_t>(value >> 32);
}

void check_arguments(Context& c, const Op* op, unsigned needed) {
  if (static_cast<unsigned>(op->aux >> 8) < needed)
    raise_fault(c, op, Fault::illegal_instruction, 0, "too few arguments to a device runtime function");
}

// Appends a device string; at most `limit` bytes.
void append_string(Context& c, const Op* op, unsigned lane, std::uint64_t address, std::string& out,
                   std::size_t limit) {
  for (std::size_t k = 0; k < limit; ++k) {
    const auto ch = static_cast<char>(*resolve_generic(c, op, lane, address + k, 1));
    if (ch == 0) return;
    out.push_back(ch);
  }
}

template <class T>
T read_value(Context& c, const Op* op, unsigned lane, std::uint64_t& at) {
  at = (at + sizeof(T) - 1) / sizeof(T) * sizeof(T);
  T v;
  std::memcpy(&v, resolve_generic(c, op, lane, at, sizeof(T)), sizeof(T));
  at += sizeof(T);
  return v;
}

struct Directive {
  std::string text;  ///< flags, width, precision, resolved
  int longs = 0;
};

template <class T>
void print(std::string& out, const std::string& format, T value) {
  const int n = std::snprintf(nullptr, 0, format.c_str(), value);
  if (n <= 0) return;
  const std::size_t at = out.size();
  out.resize(at + static_cast<std::size_t>(n) + 1);
  std::snprintf(out.data() + at, static_cast<std::size_t>(n) + 1, format.c_str(), value);
  out.pop_back();
}

// Formats as the CUDA guide's device printf: every argument lies at its own alignment in the buffer.
void format_lane(Context& c, const Op* op, unsigned lane, const std::string& format, std::uint64_t at,
                 std::string& out) {
  for (std::size_t k = 0; k < format.size(); ++k) {
    if (format[k] != '%') {
      out.push_back(format[k]);
      continue;
    }
    std::string spec = "%";
    int longs = 0;
    for (++k; k < format.size(); ++k) {
      const char ch = format[k];
      if (std::strchr("-+ #0123456789.", ch) != nullptr) {
        if (spec.size() < 40) spec.push_back(ch);
      } else if (ch == '*') {
        spec += std::to_string(read_value<std::int32_t>(c, op, lane, at));
      } else if (ch == 'l' || ch == 'z' || ch == 'j' || ch == 't') {
        ++longs;
      } else if (ch == 'h') {
        spec.push_back(ch);
      } else {
        break;
      }
    }
    if (k >= format.size()) return;
    const char conversion = format[k];
    if (conversion == '%') {
      out.push_back('%');
    } else if (std::strchr("dic", conversion) != nullptr || std::strchr("uoxX", conversion) != nullptr) {
      if (longs != 0 && conversion != 'c') {
        print(out, spec + "ll" + conversion, read_value<std::int64_t>(c, op, lane, at));
      } else {
        print(out, spec + conversion, read_value<std::int32_t>(c, op, lane, at));
      }
    } else if (std::strchr("fFeEgGaA", conversion) != nullptr) {
      print(out, spec + conversion, read_value<double>(c, op, lane, at));
    } else if (conversion == 's') {
      const auto pointer = read_value<std::uint64_t>(c, op, lane, at);
      std::string text;
      if (pointer == 0) {
        text = "(null)";
      } else {
        append_string(c, op, lane, pointer, text, 65536);
      }
      print(out, spec + 's', text.c_str());
    } else if (conversion == 'p') {
      print(out, "%p", reinterpret_cast<void*>(read_value<std::uint64_t>(c, op, lane, at)));
    } else {
      out += spec;
      out.push_back(conversion);
    }
  }
}

// Strings that outlive a fault's jump out of the handler: owned by the thread, reused.
std::string& scratch(int which) {
  static thread_local std::string strings[3];
  return strings[which];
}

}  // namespace

void write_printf(std::string_view text) {
  const std::lock_guard lock(sink_mutex);
  if (sink()) {
    sink()(text);
  } else {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
}

namespace {
void write_assert(std::string_view text) {
  const std::lock_guard lock(sink_mutex);
  if (assert_sink()) {
    assert_sink()(text);
  } else {
    std::fwrite(text.data(), 1, text.size(), stderr);
  }
}
}  // namespace

const Op* op_vprintf(Context& c, const Op* op) {
  check_arguments(c, op, 2);
  c.op = op;
  for (unsigned i = 0; i < lanes; ++i) {
    if ((c.mask >> i & 1) == 0) continue;
    std::string& format = scratch(0);
    std::string& out = scratch(1);
    format.clear();
    out.clear();
    append_string(c, op, i, argument(c, op, 0, i), format, 65536);
    format_lane(c, op, i, format, argument(c, op, 1, i), out);
    write_printf(out);
    give_result(c, op, i, static_cast<std::uint64_t>(std::max(0, static_cast<int>(out.size()))));
  }
  return after(op);
}

const Op* op_malloc(Context& c, const Op* op) {
  check_arguments(c, op, 1);
  for (unsigned i = 0; i < lanes; ++i)
    if ((c.mask >> i & 1) != 0) give_result(c, op, i, c.grid->heap->allocate(argument(c, op, 0, i)));
  return after(op);
}

const Op* op_free(Context& c, const Op* op) {
  check_arguments(c, op, 1);
  for (unsigned i = 0; i < lanes; ++i) {
    if ((c.mask >> i & 1) == 0) continue;
    const std::uint64_t address = argument(c, op, 0, i);
    if (address != 0 && !c.grid->heap->release(address))
      raise_fault(c, op, Fault::illegal_address, address, "free of a pointer that malloc did not give");
  }
  return after(op);
}

const Op* op_assertfail(Context& c, const Op* op) {
  check_arguments(c, op, 4);
  c.op = op;
  const auto lane = static_cast<unsigned>(std::countr_zero(c.mask));
  std::string& text = scratch(0);
  std::string& file = scratch(1);
  std::string& function = scratch(2);
  text.clear();
  file.clear();
  function.clear();
  append_string(c, op, lane, argument(c, op, 0, lane), text, 1024);
  append_string(c, op, lane, argument(c, op, 1, lane), file, 1024);
  append_string(c, op, lane, argument(c, op, 3, lane), function, 1024);
  const auto line = static_cast<std::uint32_t>(argument(c, op, 2, lane));
  const Dim3& b = c.block->id;
  char where[160];
  std::snprintf(where, sizeof where, ": block: [%u,%u,%u], thread: [%u,%u,%u] Assertion `", b.x, b.y, b.z,
                c.warp->tid_x[lane], c.warp->tid_y[lane], c.warp->tid_z[lane]);
  file += ":" + std::to_string(line) + ": " + function + where + text + "` failed.\n";
  write_assert(file);
  raise_fault(c, op, Fault::assert_failed, 0, text.c_str());
}

DeviceHeap::~DeviceHeap() {
  if (base_ != 0) memory_.release(base_);
}

std::uint64_t DeviceHeap::allocate(std::uint64_t bytes) {
  if (bytes == 0 || bytes > heap_bytes) return 0;
  bytes = (bytes + 15) / 16 * 16;
  const std::lock_guard lock(mutex_);
  if (base_ == 0) {
    base_ = memory_.allocate(heap_bytes, 256);
    if (base_ == 0) return 0;
    free_[base_] = heap_bytes;
  }
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->second < bytes) continue;
    const auto [address, size] = *it;
    free_.erase(it);
    if (size > bytes) free_[address + bytes] = size - bytes;
    used_[address] = bytes;
    return address;
  }
  return 0;
}

bool DeviceHeap::release(std::uint64_t address) {
  const std::lock_guard lock(mutex_);
  const auto it = used_.find(address);
  if (it == used_.end()) return false;
  auto at = free_.emplace(address, it->second).first;
  used_.erase(it);
  if (auto next = std::next(at); next != free_.end() && at->first + at->second == next->first) {
    at->second += next->second;
    free_.erase(next);
  }
  if (at != free_.begin()) {
    auto before = std::prev(at);
    if (before->first + before->second == at->first) {
      before->second += at->second;
      free_.erase(at);
    }
  }
  return true;
}

}  // namespace softgpu::exec

namespace softgpu {

void set_printf_sink(std::function<void(std::string_view)> sink) {
  const std::lock_guard lock(exec::sink_mutex);
  exec::sink() = std::move(sink);
}

void set_assert_sink(std::function<void(std::string_view)> sink) {
  const std::lock_guard lock(exec::sink_mutex);
  exec::assert_sink() = std::move(sink);
}

}  // namespace softgpu
