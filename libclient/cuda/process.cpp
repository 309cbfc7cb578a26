#include "libclient/cuda/process.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "cudaabi/unsupported.hpp"
#include "libclient/cuda/page_swap.hpp"
#include "libclient/cuda/stub_runtime.hpp"
#include "protocol/visible_devices.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

std::mutex connect_mutex;
std::atomic<Process*> connected_process{nullptr};
DeviceWish connected_wish;  // under connect_mutex
std::atomic<bool> forked{false};

void log_line(const std::string& text) {
  if (std::getenv("VGPU_LOG") != nullptr) std::fprintf(stderr, "vgpud client: %s\n", text.c_str());
}

// The process whose ranges this thread has locked to fork.
thread_local Process* forking = nullptr;

void before_fork() {
  Process* const connected = connected_process.load(std::memory_order_acquire);
  if (connected == nullptr) return;
  connected->memory.lock();
  forking = connected;
}

void after_fork_in_parent() {
  if (Process* const connected = std::exchange(forking, nullptr)) connected->memory.unlock();
}

// Memory that the program registered is private to it: what the child writes is not for the parent and the
// device.
void part_with_registered(MemoryRanges& memory) {
  for (const MemoryRange& range : memory.take_all()) {
    if (range.file < 0) continue;
    static_cast<void>(part_with_file(range.base, range.mapping_size, range.file));
    close(range.file);
  }
}

// The child shares the parent's channel pages: it must neither use them nor keep the parent's session open.
// As natively it has no CUDA of its own after the parent's cuInit; before that it may connect itself.
void after_fork_in_child() {
  Process* const parents = std::exchange(forking, nullptr);
  if (parents == nullptr) return;
  if (process() != nullptr) forked = true;
  detail::initialised_process = nullptr;
  connected_process = nullptr;
  parents->connection->abandon_in_child();
  part_with_registered(parents->memory);
}

void end_of_thread(ThreadState& thread) {
  Process* ready = process();
  if (ready == nullptr) return;
  Call call;
  if (call.enter_without_context() == CUDA_SUCCESS) {
    for (const PerThreadStream& own : thread.streams) {
      if (!ready->streams.destroy(own.stream)) continue;
      record::cuStreamDestroy_v2 record;
      record.stream = own.stream;
      static_cast<void>(call.post(record));
    }
  }
  ready->connection->release(thread);
}

// The operator sees in the statistics what a program missed.
void report_unsupported(const char* name) {
  Call call;
  if (call.enter_without_context() != CUDA_SUCCESS) return;
  record::client_refused record;
  static_cast<void>(call.post(record, std::as_bytes(std::span(name, std::strlen(name)))));
}

// CUDA_VISIBLE_DEVICES counts as it is at cuInit. A connection that was made before, by cuDriverGetVersion,
// has handed out nothing of its own yet. Under connect_mutex.
void forget_other_wish(const DeviceWish& wish) {
  Process* const connected = connected_process.load(std::memory_order_relaxed);
  if (connected == nullptr || process() != nullptr || same_wish(wish, connected_wish)) return;
  connected_process.store(nullptr, std::memory_order_release);
  delete connected;
}

// Under connect_mutex.
CUresult connect() {
  const DeviceWish wish = wish_of_environment();
  forget_other_wish(wish);
  if (connected_process.load(std::memory_order_acquire) != nullptr) return CUDA_SUCCESS;
  if (forked) return CUDA_ERROR_NOT_INITIALIZED;
  if (wish.kind == WishKind::nothing) {
    log_line("CUDA_VISIBLE_DEVICES hides every device");
    return CUDA_ERROR_NO_DEVICE;
  }
  const char* path = std::getenv("VGPUD_SOCKET");
  const char* patience = std::getenv("VGPUD_CONNECT_TIMEOUT_MS");
  constexpr int kDefaultPatience = 10'000;  // a worker may have to be started first
  const int timeout = patience != nullptr ? std::atoi(patience) : kDefaultPatience;
  auto opened = Connection::open(path != nullptr ? path : "/run/vgpud/vgpud.sock", timeout, wish);
  if (!opened) {
    log_line(opened.error().text);
    return opened.error().result;
  }
  static std::once_flag handlers;
  std::call_once(handlers, [] {
    pthread_atfork(&before_fork, &after_fork_in_parent, &after_fork_in_child);
    set_thread_end(&end_of_thread);
    cudaabi::set_unsupported_observer(&report_unsupported);
  });
  connected_wish = wish;
  connected_process.store(new Process(std::move(*opened)), std::memory_order_release);
  return CUDA_SUCCESS;
}

}  // namespace

namespace detail {
std::atomic<Process*> initialised_process{nullptr};
}

Process::Process(std::unique_ptr<Connection> opened)
    : connection(std::move(opened)), contexts(connection->devices().size()) {
  // The worker knows the devices' default pools by the first pool handles there can be.
  for (std::size_t i = 0; i < device_count(); ++i) {
    const auto [pool, handle] = pools.create();
    pool->device = static_cast<CUdevice>(i);
    default_pools[i] = handle;
    current_pools[i] = handle;
  }
  const auto attribute = [this](CUdevice_attribute which) {
    unsigned most = 0;
    for (const DeviceReport& report : connection->devices()) {
      most = std::max(most, static_cast<unsigned>(report.attributes[which]));
    }
    return most;
  };
  for (unsigned i = 0; i < 3; ++i) {
    launch_limits.grid[i] =
        attribute(static_cast<CUdevice_attribute>(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + i));
    launch_limits.block[i] =
        attribute(static_cast<CUdevice_attribute>(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X + i));
  }
  launch_limits.threads = attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
}

CUresult initialise() {
  if (process() != nullptr) return CUDA_SUCCESS;
  const std::lock_guard lock(connect_mutex);
  if (const CUresult result = connect(); result != CUDA_SUCCESS) return result;
  detail::initialised_process.store(connected_process, std::memory_order_release);
  return CUDA_SUCCESS;
}

std::optional<int> driver_version() {
  if (Process* ready = process()) return ready->device().driver_version;
  const std::lock_guard lock(connect_mutex);
  if (connect() != CUDA_SUCCESS) return std::nullopt;
  return connected_process.load(std::memory_order_relaxed)->device().driver_version;
}

}  // namespace vgpu::client
