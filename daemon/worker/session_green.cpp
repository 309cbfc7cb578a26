// Green contexts. Resources as the driver fills them in hold what may be its own pointers: they stay here,
// and the client gets copies with a number in place of that.
#include "daemon/worker/session.hpp"

namespace vgpu::worker {
namespace {

constexpr std::size_t max_resources = 1u << 14;  // of a session: nobody takes one back
constexpr std::uint32_t max_groups = 1024;
constexpr std::uint64_t description_base = 0x100;  // their numbers are no null pointers

bool known_type(std::int32_t type) {
  return type == CU_DEV_RESOURCE_TYPE_SM;
}

}  // namespace

CUresult Session::give_resource(const CUdevResource& resource, CUdevResource& out) {
  if (resources_.size() >= max_resources) return CUDA_ERROR_OUT_OF_MEMORY;
  resources_.push_back(resource);
  const std::uint64_t token = resources_.size();
  out = resource;
  std::memset(out._internal_padding, 0, sizeof out._internal_padding);
  std::memcpy(out._internal_padding, &token, sizeof token);
  return CUDA_SUCCESS;
}

const CUdevResource* Session::resource_of(std::uint64_t token) const {
  return token != 0 && token <= resources_.size() ? &resources_[token - 1] : nullptr;
}

CUresult Session::handle(const record::cuDeviceGetDevResource& record, reply::cuDeviceGetDevResource& reply,
                         Tail) {
  if (driver_.cuDeviceGetDevResource == nullptr) return unsupported(record.header.call);
  if (!known_type(record.type)) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
  CUdevResource resource{};
  const CUresult result =
      driver_.cuDeviceGetDevResource(device(), &resource, static_cast<CUdevResourceType>(record.type));
  return result == CUDA_SUCCESS ? give_resource(resource, reply.resource) : result;
}

CUresult Session::handle(const record::cuCtxGetDevResource& record, reply::cuCtxGetDevResource& reply, Tail) {
  if (driver_.cuCtxGetDevResource == nullptr) return unsupported(record.header.call);
  if (!known_type(record.type)) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
  CUdevResource resource{};
  const CUresult result = driver_.cuCtxGetDevResource(contexts_.current(), &resource,
                                                      static_cast<CUdevResourceType>(record.type));
  return result == CUDA_SUCCESS ? give_resource(resource, reply.resource) : result;
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
  return result == CUDA_SUCCESS ? give_resource(resource, reply.resource) : result;
}

CUresult Session::handle(const record::cuDevSmResourceSplitByCount& record,
                         reply::cuDevSmResourceSplitByCount& reply, Tail) {
  if (driver_.cuDevSmResourceSplitByCount == nullptr) return unsupported(record.header.call);
  const CUdevResource* const input = resource_of(record.input);
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
    result = give_resource(groups[i], given);
    if (result != CUDA_SUCCESS) return result;
    std::memcpy(out.data() + i * sizeof given, &given, sizeof given);
  }
  return record.with_remaining != 0 ? give_resource(remaining, reply.remaining) : CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuDevResourceGenerateDesc& record,
                         reply::cuDevResourceGenerateDesc& reply, Tail tail) {
  if (driver_.cuDevResourceGenerateDesc == nullptr) return unsupported(record.header.call);
  if (record.count == 0 || record.count > max_groups || tail.size() != record.count * sizeof(std::uint64_t))
    return CUDA_ERROR_INVALID_VALUE;
  if (descriptions_.size() >= max_resources) return CUDA_ERROR_OUT_OF_MEMORY;
  std::vector<CUdevResource> resources;
  for (std::uint32_t i = 0; i < record.count; ++i) {
    std::uint64_t token = 0;
    std::memcpy(&token, tail.data() + i * sizeof token, sizeof token);
    const CUdevResource* const resource = resource_of(token);
    if (resource == nullptr) return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    resources.push_back(*resource);
  }
  CUdevResourceDesc description = nullptr;
  const CUresult result = driver_.cuDevResourceGenerateDesc(&description, resources.data(), record.count);
  if (result != CUDA_SUCCESS) return result;
  descriptions_.push_back(description);
  reply.description = description_base + descriptions_.size();
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuGreenCtxCreate& record, reply::cuGreenCtxCreate&, Tail) {
  if (driver_.cuGreenCtxCreate == nullptr || driver_.cuCtxFromGreenCtx == nullptr ||
      driver_.cuGreenCtxDestroy == nullptr) {
    return unsupported(record.header.call);
  }
  if (!can_bind(HandleKind::green_context, record.green)) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult result = contexts_.may_add(record.index); result != CUDA_SUCCESS) return result;
  const std::uint64_t number = record.description - description_base;
  if (record.description <= description_base || number > descriptions_.size())
    return CUDA_ERROR_INVALID_VALUE;
  CUgreenCtx green = nullptr;
  CUresult result = driver_.cuGreenCtxCreate(&green, descriptions_[number - 1], device(), record.flags);
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
