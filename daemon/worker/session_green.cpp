// Green contexts. The client knows their resources by number (green_resources.hpp).
#include "daemon/worker/session.hpp"

namespace vgpu::worker {
namespace {

constexpr std::uint32_t max_groups = 1024;

bool known_type(std::int32_t type) {
  return type == CU_DEV_RESOURCE_TYPE_SM;
}

}  // namespace

CUresult Session::handle(const record::cuDeviceGetDevResource& record, reply::cuDeviceGetDevResource& reply,
                         Tail) {
  if (driver_.cuDeviceGetDevResource == nullptr) return unsupported(record.header.call);
  if (!known_type(record.type)) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
  CUdevResource resource{};
  const CUresult result =
      driver_.cuDeviceGetDevResource(device(), &resource, static_cast<CUdevResourceType>(record.type));
  return result == CUDA_SUCCESS ? resources_.give(resource, reply.resource) : result;
}

CUresult Session::handle(const record::cuCtxGetDevResource& record, reply::cuCtxGetDevResource& reply, Tail) {
  if (driver_.cuCtxGetDevResource == nullptr) return unsupported(record.header.call);
  if (!known_type(record.type)) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
  CUdevResource resource{};
  const CUresult result = driver_.cuCtxGetDevResource(contexts_.current(), &resource,
                                                      static_cast<CUdevResourceType>(record.type));
  return result == CUDA_SUCCESS ? resources_.give(resource, reply.resource) : result;
}

CUresult Session::handle(const record::cuGreenCtxGetDevResource& record,
                         reply::cuGreenCtxGetDevResource& reply, Tail) {
  if (driver_.cuGreenCtxGetDevResource == nullptr) return unsupported(record.header.call);
  CUgreenCtx green = nullptr;
  if (!resolve(record.green, green)) return CUDA_ERROR_INVALID_HANDLE;
  if (!known_type(record.type)) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
  CUdevResource resource{};
  const CUresult result =
      driver_.cuGreenCtxGetDevResource(green, &resource, static_cast<CUdevResourceType>(record.type));
  return result == CUDA_SUCCESS ? resources_.give(resource, reply.resource) : result;
}

CUresult Session::handle(const record::cuDevSmResourceSplitByCount& record,
                         reply::cuDevSmResourceSplitByCount& reply, Tail) {
  if (driver_.cuDevSmResourceSplitByCount == nullptr) return unsupported(record.header.call);
  const CUdevResource* const input = resources_.find(record.input);
  if (input == nullptr) return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
  if (record.groups > max_groups) return CUDA_ERROR_INVALID_VALUE;
  const std::span<std::byte> out = arena_bytes(record.results);
  if (out.size() < record.groups * sizeof(CUdevResource)) return CUDA_ERROR_INVALID_VALUE;
  std::vector<CUdevResource> groups(record.groups);
  CUdevResource remaining{};
  unsigned count = record.groups;
  const CUdevResource from = *input;  // the list may grow below
  CUresult result = driver_.cuDevSmResourceSplitByCount(
      groups.empty() ? nullptr : groups.data(), &count, &from,
      record.with_remaining != 0 ? &remaining : nullptr, record.flags, record.minimum);
  if (result != CUDA_SUCCESS) return result;
  reply.made = count;
  for (std::size_t i = 0; i < std::min<std::size_t>(count, groups.size()); ++i) {
    CUdevResource given;
    result = resources_.give(groups[i], given);
    if (result != CUDA_SUCCESS) return result;
    std::memcpy(out.data() + i * sizeof given, &given, sizeof given);
  }
  return record.with_remaining != 0 ? resources_.give(remaining, reply.remaining) : CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuDevResourceGenerateDesc& record,
                         reply::cuDevResourceGenerateDesc& reply, Tail tail) {
  if (driver_.cuDevResourceGenerateDesc == nullptr) return unsupported(record.header.call);
  if (record.count == 0 || record.count > max_groups || tail.size() != record.count * sizeof(std::uint64_t))
    return CUDA_ERROR_INVALID_VALUE;
  if (!resources_.may_add_description()) return CUDA_ERROR_OUT_OF_MEMORY;
  std::vector<CUdevResource> resources;
  for (std::uint32_t i = 0; i < record.count; ++i) {
    std::uint64_t token = 0;
    std::memcpy(&token, tail.data() + i * sizeof token, sizeof token);
    const CUdevResource* const resource = resources_.find(token);
    if (resource == nullptr) return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    resources.push_back(*resource);
  }
  CUdevResourceDesc description = nullptr;
  const CUresult result = driver_.cuDevResourceGenerateDesc(&description, resources.data(), record.count);
  if (result != CUDA_SUCCESS) return result;
  reply.description = resources_.add(description);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuGreenCtxCreate& record, reply::cuGreenCtxCreate&, Tail) {
  if (driver_.cuGreenCtxCreate == nullptr || driver_.cuCtxFromGreenCtx == nullptr ||
      driver_.cuGreenCtxDestroy == nullptr) {
    return unsupported(record.header.call);
  }
  if (!can_bind(HandleKind::green_context, record.green)) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult result = contexts_.may_add(record.index); result != CUDA_SUCCESS) return result;
  CUdevResourceDesc description = nullptr;
  if (!resources_.description(record.description, description)) return CUDA_ERROR_INVALID_VALUE;
  CUgreenCtx green = nullptr;
  CUresult result = driver_.cuGreenCtxCreate(&green, description, device(), record.flags);
  if (result != CUDA_SUCCESS) return result;
  CUcontext context = nullptr;
  result = driver_.cuCtxFromGreenCtx(&context, green);
  if (result != CUDA_SUCCESS) {
    driver_.cuGreenCtxDestroy(green);
    return result;
  }
  bind(HandleKind::green_context, record.green, green);
  contexts_.add(record.index, context);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuGreenCtxDestroy& record, reply::cuGreenCtxDestroy&, Tail) {
  if (driver_.cuGreenCtxDestroy == nullptr) return unsupported(record.header.call);
  CUgreenCtx green = nullptr;
  if (!resolve(record.green, green)) return CUDA_ERROR_INVALID_HANDLE;
  // The context must be this green context's own.
  CUcontext context = nullptr;
  if (driver_.cuCtxFromGreenCtx(&context, green) != CUDA_SUCCESS || context == nullptr ||
      contexts_.primary(record.index) || contexts_.at(record.index) != context) {
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  handles_.forget(HandleKind::green_context, record.green);
  return end_context(record.index, [this, green] { return driver_.cuGreenCtxDestroy(green); });
}

CUresult Session::handle(const record::cuGreenCtxStreamCreate& record, reply::cuGreenCtxStreamCreate&, Tail) {
  if (driver_.cuGreenCtxStreamCreate == nullptr || driver_.cuCtxFromGreenCtx == nullptr)
    return unsupported(record.header.call);
  CUgreenCtx green = nullptr;
  if (!resolve(record.green, green) || !can_bind(HandleKind::stream, record.stream))
    return CUDA_ERROR_INVALID_HANDLE;
  CUcontext context = nullptr;
  CUresult result = driver_.cuCtxFromGreenCtx(&context, green);
  if (result != CUDA_SUCCESS) return result;
  CUstream stream = nullptr;
  result = driver_.cuGreenCtxStreamCreate(&stream, green, record.flags, record.priority);
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::stream, record.stream, stream);
  contexts_.add_stream(stream, context);
  return CUDA_SUCCESS;
}

}  // namespace vgpu::worker
