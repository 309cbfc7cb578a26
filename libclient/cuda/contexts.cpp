#include "libclient/cuda/contexts.hpp"

namespace vgpu::client {

void Context::reset() {
  handle = 0;
  index = 0;
  device = 0;
  primary = false;
  live = false;
  flags = 0;
  api_version = 3020;
  id = 0;
  green = 0;
  cache_config = CU_FUNC_CACHE_PREFER_NONE;
  shared_config = CU_SHARED_MEM_CONFIG_DEFAULT_BANK_SIZE;
  attached = 0;
  stale = false;
  retained = 0;
}

Contexts::Contexts(std::size_t devices) : table_(HandleKind::context) {
  for (std::size_t device = 0; device < devices; ++device) {
    const auto [context, handle] = table_.create();
    context->handle = handle;
    context->index = static_cast<std::uint16_t>(device);
    context->device = static_cast<CUdevice>(device);
    context->primary = true;
    context->id = next_id_++;
    primaries_.push_back(context);
  }
}

Context* Contexts::create(CUdevice device, unsigned flags, unsigned api_version) {
  const auto [context, handle] = table_.create();
  if (context == nullptr) return nullptr;
  if (Handle::index(handle) > UINT16_MAX) {
    table_.destroy(handle);
    return nullptr;
  }
  context->handle = handle;
  context->index = static_cast<std::uint16_t>(Handle::index(handle));
  context->device = device;
  context->flags = flags;
  context->api_version = api_version;
  context->id = next_id_++;
  context->live = true;
  several_.store(true, std::memory_order_release);
  return context;
}

void Contexts::destroy(Context& context) {
  context.live = false;
  table_.destroy(context.handle);
}

bool Contexts::retain_primary(CUdevice device) {
  const std::lock_guard lock(mutex_);
  if (device != 0) several_.store(true, std::memory_order_release);
  ++primary(device).retained;
  return !primary(device).live.exchange(true);
}

int Contexts::release_primary(CUdevice device) {
  const std::lock_guard lock(mutex_);
  if (primary(device).retained == 0) return -1;
  if (--primary(device).retained > 0) return 0;
  primary(device).live = false;
  return 1;
}

int Contexts::retained_primary(CUdevice device) {
  const std::lock_guard lock(mutex_);
  return primary(device).retained;
}

bool Contexts::reset_primary(CUdevice device) {
  const std::lock_guard lock(mutex_);
  const bool was_live = primary(device).live.exchange(false);
  primary(device).id = next_id_++;
  return was_live;
}

void push_context(ThreadState& thread, Context* context) {
  if (thread.current != nullptr || !thread.below.empty()) thread.below.push_back(thread.current);
  thread.current = context;
}

CUresult pop_context(ThreadState& thread, Context*& popped) {
  if (thread.current == nullptr && thread.below.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  popped = thread.current;
  thread.current = nullptr;
  if (!thread.below.empty()) {
    thread.current = thread.below.back();
    thread.below.pop_back();
  }
  return CUDA_SUCCESS;
}

void set_context(ThreadState& thread, Context* context) {
  if (context == nullptr) {
    Context* ignored = nullptr;
    static_cast<void>(pop_context(thread, ignored));
    return;
  }
  thread.current = context;
}

}  // namespace vgpu::client
