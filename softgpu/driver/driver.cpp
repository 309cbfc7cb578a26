#include "softgpu/driver/driver.hpp"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <type_traits>

#include "softgpu/assert_text.hpp"
#include "softgpu/driver/api.hpp"
#include "softgpu/driver/device.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/memory_pool.hpp"
#include "softgpu/driver/module.hpp"

namespace softgpu {
namespace {

std::atomic<bool> initialised{false};
std::atomic<bool> forked{false};
std::atomic<bool> ended{false};

// NVIDIA's runtime still calls from exit handlers, when the main thread's thread-local objects are gone. So
// the pointer is plain data that outlives them, and a stack that is asked for later is made anew. Without a
// destructor: the runtime still calls from exit handlers, when a thread's other locals are gone.
struct ContextStack {
  std::array<Context*, 256> contexts;
  std::size_t depth;
};

ContextStack& context_stack() {
  static_assert(std::is_trivially_destructible_v<ContextStack>);
  thread_local constinit ContextStack stack{};
  return stack;
}

struct Printf {
  std::mutex mutex;
  std::string text;
  std::string assertions;
  void (*target)(void*, const char*, std::size_t) = nullptr;
  void* user = nullptr;
  std::atomic<bool> any{false};
};

Printf& kept_printf() {
  static auto* const kept = new Printf;
  return *kept;
}

std::vector<std::unique_ptr<Device>> configured_devices() {
  std::vector<std::unique_ptr<Device>> devices;
  const int count = configured_device_count();
  devices.reserve(static_cast<std::size_t>(count));
  for (int ordinal = 0; ordinal < count; ++ordinal) devices.push_back(std::make_unique<Device>(ordinal));
  return devices;
}

// Nothing may run in a kernel while the process takes its libraries apart.
void stop_at_exit() {
  if (forked.load()) return;
  ended.store(true);
  Driver& driver = Driver::get();
  for (const auto& device : driver.devices) device->primary.cancel.store(true);
  driver.scheduler.stop(1000);
  if (driver.kernel_counts == nullptr) return;
  if (guarded([&] { return driver.kernel_counts->save() ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM; }) !=
      CUDA_SUCCESS)
    log_line("cannot write the table of kernels");
}

}  // namespace

Driver::Driver()
    : devices(configured_devices()),
      memory(configured_device_memory(device_count())),
      kernel_counts(wanted_kernel_counts()) {
  set_printf_sink(keep_printf);
  set_assert_sink([](std::string_view text) {
    Printf& kept = kept_printf();
    const std::unique_lock lock(kept.mutex);
    kept.assertions += text;
    kept.any.store(true, std::memory_order_release);
  });
}

Driver& Driver::get() {
  static auto* const driver = new Driver;
  return *driver;
}

CUresult require_driver() {
  if (forked.load(std::memory_order_relaxed)) return CUDA_ERROR_NOT_INITIALIZED;
  if (!initialised.load(std::memory_order_acquire)) return CUDA_ERROR_NOT_INITIALIZED;
  return ended.load(std::memory_order_relaxed) ? CUDA_ERROR_DEINITIALIZED : CUDA_SUCCESS;
}

std::shared_ptr<Context> find_context(Driver& driver, CUcontext handle) {
  auto* const context = reinterpret_cast<Context*>(handle);
  for (const auto& device : driver.devices) {
    if (context == &device->primary) return {std::shared_ptr<Context>(), context};
  }
  return driver.contexts.find(context);
}

Context& context_of(Driver& driver, const Allocation& memory) {
  // What owns memory in this driver is a context or nobody.
  auto* const owner = static_cast<Context*>(const_cast<void*>(memory.owner));
  return owner != nullptr ? *owner : driver.device(memory.device).primary;
}

Context* current_context() {
  const ContextStack& stack = context_stack();
  return stack.depth == 0 ? nullptr : stack.contexts[stack.depth - 1];
}

bool push_context(Context* context) {
  ContextStack& stack = context_stack();
  if (stack.depth == stack.contexts.size()) return false;
  stack.contexts[stack.depth++] = context;
  return true;
}

Context* pop_context() {
  ContextStack& stack = context_stack();
  return stack.depth == 0 ? nullptr : stack.contexts[--stack.depth];
}

void set_context(Context* context) {
  pop_context();
  if (context != nullptr) push_context(context);
}

void keep_printf(std::string_view text) {
  Printf& kept = kept_printf();
  const std::unique_lock lock(kept.mutex);
  kept.text += text;
  kept.any.store(true, std::memory_order_release);
}

void flush_printf() {
  Printf& kept = kept_printf();
  if (!kept.any.load(std::memory_order_acquire)) return;
  const std::unique_lock lock(kept.mutex);
  if (kept.target != nullptr) {
    kept.target(kept.user, kept.text.data(), kept.text.size());
  } else {
    std::fwrite(kept.text.data(), 1, kept.text.size(), stdout);
    std::fflush(stdout);
  }
  // Source: CUDA C++ Programming Guide, "Assertion": the message goes to stderr.
  std::fwrite(kept.assertions.data(), 1, kept.assertions.size(), stderr);
  kept.assertions.clear();
  kept.text.clear();
  kept.any.store(false, std::memory_order_release);
}

void set_printf_target(void (*target)(void*, const char*, std::size_t), void* user) {
  Printf& kept = kept_printf();
  const std::unique_lock lock(kept.mutex);
  kept.target = target;
  kept.user = user;
}

void log_refusal(std::string_view text) {
  // Each once, and not for ever: programs may come with any number of kernels, and with any names.
  constexpr std::size_t most_lines = 64;
  static auto* const told = new std::set<std::string>;
  static std::mutex mutex;
  std::string line(text.substr(0, 500));
  std::replace_if(
      line.begin(), line.end(), [](unsigned char letter) { return std::isprint(letter) == 0; }, '?');
  const std::lock_guard lock(mutex);
  if (told->size() >= most_lines || !told->insert(line).second) return;
  std::fprintf(stderr, "softgpu: %s\n", line.c_str());
}

void log_line(std::string_view text) {
  static const bool wanted = std::getenv("SOFTGPU_LOG") != nullptr || std::getenv("VGPU_LOG") != nullptr;
  if (!wanted) return;
  std::fprintf(stderr, "softgpu: %.*s\n", static_cast<int>(text.size()), text.data());
}

}  // namespace softgpu

using namespace softgpu;

SOFTGPU_API cuInit(unsigned int flags) {
  return guarded([&]() -> CUresult {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (forked.load()) return CUDA_ERROR_NOT_INITIALIZED;
    if (initialised.load(std::memory_order_acquire)) return CUDA_SUCCESS;
    Driver::get();
    static std::once_flag once;
    std::call_once(once, [] {
      std::atexit(stop_at_exit);
      pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
    });
    initialised.store(true, std::memory_order_release);
    return CUDA_SUCCESS;
  });
}
