// cuIpc*: memory and events of another process of the same user. A handle says where the other process's
// memfd is (softgpu/memory/shared_file.hpp), so it is of use only to who may look into that process.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/ipc.hpp"
#include "softgpu/driver/shared_event.hpp"

using namespace softgpu;

namespace {

constexpr std::uint64_t memory_magic = 0x3159524F4D454D53;  // "SMEMORY1"
constexpr std::uint64_t event_magic = 0x31544E4556454853;   // "SHEVENT1"

struct MemoryHandle {
  std::uint64_t magic = memory_magic;
  SharedFile file;
  std::uint64_t bytes = 0;
  std::uint64_t device = 0;
};
struct EventHandle {
  std::uint64_t magic = event_magic;
  SharedEventPlace place;
};
static_assert(sizeof(MemoryHandle) <= CU_IPC_HANDLE_SIZE && sizeof(EventHandle) <= CU_IPC_HANDLE_SIZE);

// Memory that is open in a context: opened again it is the same.
struct Opened {
  std::uint64_t address = 0;
  unsigned count = 0;
};
struct OpenedMemory {
  using Key = std::pair<const Context*, std::array<char, CU_IPC_HANDLE_SIZE>>;
  std::mutex mutex;
  std::map<Key, Opened> of;
};

OpenedMemory& opened() {
  static auto* const instance = new OpenedMemory;
  return *instance;
}

CUresult open_memory(CUdeviceptr* out, const CUipcMemHandle& handle, unsigned flags) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if (out == nullptr || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult error = refuse_in_capture(); error != CUDA_SUCCESS) return error;
    MemoryHandle wanted;
    std::memcpy(&wanted, handle.reserved, sizeof wanted);
    if (wanted.magic != memory_magic) return CUDA_ERROR_INVALID_VALUE;
    // A process has its own memory already, under its own address.
    if (wanted.file.pid == getpid()) return CUDA_ERROR_INVALID_CONTEXT;
    const std::unique_lock lock(opened().mutex);
    OpenedMemory::Key key{&context, {}};
    std::memcpy(key.second.data(), handle.reserved, key.second.size());
    if (const auto known = opened().of.find(key); known != opened().of.end()) {
      ++known->second.count;
      *out = known->second.address;
      return CUDA_SUCCESS;
    }
    const int fd = open_file(wanted.file);
    if (fd < 0) return CUDA_ERROR_INVALID_HANDLE;
    // Who made it may see other devices than this process.
    const int device =
        wanted.device < driver.devices.size() ? static_cast<int>(wanted.device) : context.device;
    auto memory = PhysicalMemory::import(fd, device);
    close(fd);
    if (!memory) return CUDA_ERROR_INVALID_HANDLE;
    const auto address = driver.memory.attach(std::move(*memory), wanted.bytes, &context);
    if (!address) return error_of(address.error());
    opened().of[key] = {*address, 1};
    *out = *address;
    return CUDA_SUCCESS;
  });
}

}  // namespace

void softgpu::forget_opened_memory(const Context& context) {
  const std::unique_lock lock(opened().mutex);
  std::erase_if(opened().of, [&](const auto& entry) { return entry.first.first == &context; });
}

SOFTGPU_API cuIpcGetMemHandle(CUipcMemHandle* out, CUdeviceptr address) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    const auto found = driver.memory.find(address);
    if (out == nullptr || !found || found->kind != MemoryKind::device) return CUDA_ERROR_INVALID_VALUE;
    tl::expected<std::shared_ptr<PhysicalMemory>, MemoryError> memory =
        tl::unexpected(MemoryError::not_found);
    driver.scheduler.while_quiet([&] { memory = driver.memory.share(found->base); });
    if (!memory) return error_of(memory.error());
    const auto file = describe_file((*memory)->fd());
    if (!file) return CUDA_ERROR_OPERATING_SYSTEM;
    MemoryHandle handle;
    handle.file = *file;
    handle.bytes = found->bytes;
    handle.device = static_cast<std::uint64_t>(found->device);
    *out = {};
    std::memcpy(out->reserved, &handle, sizeof handle);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuIpcOpenMemHandle_v2(CUdeviceptr* out, CUipcMemHandle handle, unsigned flags) {
  return open_memory(out, handle, flags);
}
SOFTGPU_API cuIpcOpenMemHandle(CUdeviceptr* out, CUipcMemHandle handle, unsigned flags) {
  return open_memory(out, handle, flags);
}

SOFTGPU_API cuIpcCloseMemHandle(CUdeviceptr address) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    const std::unique_lock lock(opened().mutex);
    const auto found = std::find_if(opened().of.begin(), opened().of.end(),
                                    [&](const auto& entry) { return entry.second.address == address; });
    if (found == opened().of.end()) return CUDA_ERROR_INVALID_VALUE;
    if (--found->second.count != 0) return CUDA_SUCCESS;
    opened().of.erase(found);
    context.synchronize();
    const auto released = driver.memory.release(address, {MemoryKind::imported});
    return released ? CUDA_SUCCESS : error_of(released.error());
  });
}

SOFTGPU_API cuIpcGetEventHandle(CUipcEventHandle* out, CUevent handle) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    const auto event = driver.events.find(handle);
    if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (out == nullptr || event->shared == nullptr) return CUDA_ERROR_INVALID_VALUE;
    // An opened event is its maker's to pass on.
    if (!event->shared->own()) return CUDA_ERROR_INVALID_HANDLE;
    EventHandle native;
    native.place = event->shared->place();
    *out = {};
    std::memcpy(out->reserved, &native, sizeof native);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuIpcOpenEventHandle(CUevent* out, CUipcEventHandle handle) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    EventHandle wanted;
    std::memcpy(&wanted, handle.reserved, sizeof wanted);
    if (wanted.magic != event_magic) return CUDA_ERROR_INVALID_VALUE;
    if (wanted.place.file.pid == getpid()) return CUDA_ERROR_INVALID_CONTEXT;
    auto shared = SharedEvent::open(wanted.place);
    if (shared == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    auto event = std::make_shared<Event>(context, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING);
    event->shared = std::move(shared);
    *out = reinterpret_cast<CUevent>(driver.events.add(std::move(event)));
    return CUDA_SUCCESS;
  });
}
