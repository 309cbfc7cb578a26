// Green contexts: parts of the device's multiprocessors, and contexts and streams on them. Resources stay
// with the worker; the program holds copies of what they say, and a number in the padding that names them.
#include <cstring>
#include <vector>

#include "libclient/cuda/arena_block.hpp"
#include "libclient/cuda/stub_runtime.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

constexpr unsigned kMostGroups = 1024;

// What CUdevResource holds between its type and what is public is the driver's; here it is the worker's
// number.
std::uint64_t token_of(const CUdevResource& resource) {
  std::uint64_t token = 0;
  std::memcpy(&token, resource._internal_padding, sizeof token);
  return token;
}

CUresult check_green(Call& call, CUgreenCtx green) {
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  return call.process().green_contexts.find(bits(green)) != nullptr ? CUDA_SUCCESS
                                                                    : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult split(CUdevResource* groups, unsigned* count, const CUdevResource* input, CUdevResource* remaining,
               unsigned flags, unsigned minimum) {
  if (count == nullptr || input == nullptr || (groups != nullptr && *count > kMostGroups))
    return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  const unsigned wanted = groups != nullptr ? *count : 0;
  record::cuDevSmResourceSplitByCount record;
  record.input = token_of(*input);
  record.groups = wanted;
  record.with_remaining = remaining != nullptr ? 1 : 0;
  record.flags = flags;
  record.minimum = minimum;
  reply::cuDevSmResourceSplitByCount reply;
  const std::uint64_t bytes = std::max(wanted, 1U) * sizeof(CUdevResource);
  ArenaLease block(call.connection(), bytes);
  if (!block) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  record.results = block.span(bytes);
  const CUresult result = call.ask(record, reply);
  if (result == CUDA_SUCCESS) {
    *count = groups != nullptr ? std::min(reply.made, wanted) : reply.made;
    if (groups != nullptr) std::memcpy(groups, block.data(), *count * sizeof(CUdevResource));
    if (remaining != nullptr) *remaining = reply.remaining;
  }
  block.discard();
  return result;
}

CUresult create_green(CUgreenCtx* out, CUdevResourceDesc description, CUdevice device, unsigned flags) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.on_device(device); result != CUDA_SUCCESS) return result;
  if (const CUresult result = renew_primary(call, device); result != CUDA_SUCCESS) return result;
  Process& process = call.process();
  const auto [green, handle] = process.green_contexts.create();
  if (green == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  Context* const context = process.contexts.create(device, 0, 3021);
  if (context == nullptr) {
    process.green_contexts.destroy(handle);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  record::cuGreenCtxCreate record;
  record.green = handle;
  record.description = bits(description);
  record.index = context->index;
  record.flags = flags;
  if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) {
    process.contexts.destroy(*context);
    process.green_contexts.destroy(handle);
    return result;
  }
  context->green = handle;
  green->context = context->handle;
  // A green context holds the primary one.
  process.contexts.retain_primary(device);
  *out = from_bits<CUgreenCtx>(handle);
  return CUDA_SUCCESS;
}

CUresult destroy_green(CUgreenCtx handle) {
  Call call;
  if (const CUresult result = check_green(call, handle); result != CUDA_SUCCESS) return result;
  Process& process = call.process();
  Context* const context =
      process.contexts.find(from_bits<CUcontext>(process.green_contexts.find(bits(handle))->context));
  record::cuGreenCtxDestroy record;
  record.green = bits(handle);
  record.index = context != nullptr ? context->index : std::uint16_t{0};
  const CUresult result = call.ask(record);
  const CUdevice device = context != nullptr ? context->device : 0;
  process.green_contexts.destroy(bits(handle));
  if (context != nullptr) process.contexts.destroy(*context);
  static_cast<void>(cuDevicePrimaryCtxRelease_v2(device));
  return result;
}

CUresult create_stream(CUstream* out, CUgreenCtx green, unsigned flags, int priority) {
  if (out == nullptr || (flags & CU_STREAM_NON_BLOCKING) == 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_green(call, green); result != CUDA_SUCCESS) return result;
  Process& process = call.process();
  const auto [stream, handle] = process.streams.create();
  if (stream == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  stream->context = process.green_contexts.find(bits(green))->context;
  stream->flags = flags;
  stream->priority = priority;
  stream->id = process.next_stream_id++;
  record::cuGreenCtxStreamCreate record;
  record.stream = handle;
  record.green = bits(green);
  record.flags = flags;
  record.priority = priority;
  return hand_out(process.streams, handle, call.ask(record), out);
}

CUresult stream_green(CUstream stream, CUgreenCtx* out) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUcontext context = nullptr;
  if (const CUresult result = cuStreamGetCtx(stream, &context); result != CUDA_SUCCESS) return result;
  const Context* const known = process()->contexts.find(context);
  *out = from_bits<CUgreenCtx>(known != nullptr ? known->green : 0);
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;
namespace record = vgpu::record;
namespace reply = vgpu::reply;

VGPU_EXPORT CUresult cuDeviceGetDevResource(CUdevice device, CUdevResource* resource,
                                            CUdevResourceType type) {
  if (resource == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.on_device(device); result != CUDA_SUCCESS) return result;
  record::cuDeviceGetDevResource record;
  record.type = static_cast<std::int32_t>(type);
  reply::cuDeviceGetDevResource reply;
  const CUresult result = call.ask(record, reply);
  if (result == CUDA_SUCCESS) *resource = reply.resource;
  return result;
}

VGPU_EXPORT CUresult cuCtxGetDevResource(CUcontext hCtx, CUdevResource* resource, CUdevResourceType type) {
  if (resource == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult result = cuCtxPushCurrent_v2(hCtx); result != CUDA_SUCCESS) return result;
  Call call;
  CUresult result = call.enter();
  if (result == CUDA_SUCCESS) {
    record::cuCtxGetDevResource record;
    record.type = static_cast<std::int32_t>(type);
    reply::cuCtxGetDevResource reply;
    result = call.ask(record, reply);
    if (result == CUDA_SUCCESS) *resource = reply.resource;
  }
  static_cast<void>(cuCtxPopCurrent_v2(nullptr));
  return result;
}

VGPU_EXPORT CUresult cuGreenCtxGetDevResource(CUgreenCtx hCtx, CUdevResource* resource,
                                              CUdevResourceType type) {
  if (resource == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_green(call, hCtx); result != CUDA_SUCCESS) return result;
  record::cuGreenCtxGetDevResource record;
  record.green = bits(hCtx);
  record.type = static_cast<std::int32_t>(type);
  reply::cuGreenCtxGetDevResource reply;
  const CUresult result = call.ask(record, reply);
  if (result == CUDA_SUCCESS) *resource = reply.resource;
  return result;
}

VGPU_EXPORT CUresult cuDevSmResourceSplitByCount(CUdevResource* result, unsigned int* nbGroups,
                                                 const CUdevResource* input, CUdevResource* remaining,
                                                 unsigned int useFlags, unsigned int minCount) {
  return split(result, nbGroups, input, remaining, useFlags, minCount);
}

VGPU_EXPORT CUresult cuDevResourceGenerateDesc(CUdevResourceDesc* phDesc, CUdevResource* resources,
                                               unsigned int nbResources) {
  if (phDesc == nullptr || resources == nullptr || nbResources == 0 || nbResources > kMostGroups)
    return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  std::vector<std::uint64_t> tokens(nbResources);
  for (unsigned i = 0; i < nbResources; ++i) tokens[i] = token_of(resources[i]);
  record::cuDevResourceGenerateDesc record;
  record.count = nbResources;
  reply::cuDevResourceGenerateDesc reply;
  const CUresult result = call.ask(record, reply, std::as_bytes(std::span(tokens)));
  if (result == CUDA_SUCCESS) *phDesc = from_bits<CUdevResourceDesc>(reply.description);
  return result;
}

VGPU_EXPORT CUresult cuGreenCtxCreate(CUgreenCtx* phCtx, CUdevResourceDesc desc, CUdevice dev,
                                      unsigned int flags) {
  return create_green(phCtx, desc, dev, flags);
}
VGPU_EXPORT CUresult cuGreenCtxDestroy(CUgreenCtx hCtx) {
  return destroy_green(hCtx);
}
VGPU_EXPORT CUresult cuCtxFromGreenCtx(CUcontext* pContext, CUgreenCtx hCtx) {
  if (pContext == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_green(call, hCtx); result != CUDA_SUCCESS) return result;
  *pContext = from_bits<CUcontext>(call.process().green_contexts.find(bits(hCtx))->context);
  return CUDA_SUCCESS;
}
VGPU_EXPORT CUresult cuGreenCtxGetId(CUgreenCtx greenCtx, unsigned long long* greenCtxId) {
  CUcontext context = nullptr;
  if (const CUresult result = cuCtxFromGreenCtx(&context, greenCtx); result != CUDA_SUCCESS) return result;
  return cuCtxGetId(context, greenCtxId);
}
VGPU_EXPORT CUresult cuGreenCtxStreamCreate(CUstream* phStream, CUgreenCtx greenCtx, unsigned int flags,
                                            int priority) {
  return create_stream(phStream, greenCtx, flags, priority);
}
VGPU_EXPORT CUresult cuStreamGetGreenCtx(CUstream hStream, CUgreenCtx* phCtx) {
  return stream_green(hStream, phCtx);
}
