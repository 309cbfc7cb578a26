// Loading images with JIT options, linking (cuLink*), enumerating functions, and tensor maps.
#include "daemon/worker/session.hpp"
#include "protocol/tensor_map.hpp"

namespace vgpu::worker {
namespace {

constexpr std::uint32_t max_functions = 1u << 16;
constexpr std::size_t max_linkers = 64;  // of one client at a time: each holds its inputs

}  // namespace

CUresult Session::handle(const record::jit_module& record, reply::jit_module&, Tail tail) {
  if (driver_.cuModuleLoadDataEx == nullptr) return unsupported(record.header.call);
  std::vector<std::byte> image;
  JitState jit;
  CUresult result = fetch_image(record.source, record.token, record.image, image);
  if (result == CUDA_SUCCESS) result = jit.read(record.option_count, tail);
  if (result != CUDA_SUCCESS) return result;
  if (!can_bind(HandleKind::module, record.module)) return CUDA_ERROR_INVALID_HANDLE;
  ImageCharges::Held charge;
  if (result = image_charges_.charge(image, place(), false, charge); result != CUDA_SUCCESS) return result;
  CUmodule module = nullptr;
  result = driver_.cuModuleLoadDataEx(&module, image.data(), jit.count(), jit.options(), jit.values());
  jit.write_outputs(arena_bytes(record.logs));
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::module, record.module, module);
  note_image(record.module, std::move(charge));
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::jit_library& record, reply::jit_library&, Tail tail) {
  if (driver_.cuLibraryLoadData == nullptr) return unsupported(record.header.call);
  std::vector<std::byte> image;
  bool variables = false;
  JitState jit;
  CUresult result = fetch_image(record.source, record.token, record.image, image, &variables);
  if (result == CUDA_SUCCESS) result = jit.read(record.option_count, tail);
  if (result != CUDA_SUCCESS) return result;
  result = load_library(record.library, std::move(image), variables, jit);
  jit.write_outputs(arena_bytes(record.logs));
  return result;
}

void Session::write_names(const std::vector<const char*>& names, const ArenaSpan& span,
                          std::uint64_t& bytes) {
  const std::span<std::byte> out = arena_bytes(span);
  bytes = 0;
  for (const char* const name : names) {
    const std::size_t size = std::strlen(name) + 1;
    if (bytes + size <= out.size()) std::memcpy(out.data() + bytes, name, size);
    bytes += size;
  }
}

CUresult Session::handle(const record::cuModuleEnumerateFunctions& record,
                         reply::cuModuleEnumerateFunctions& reply, Tail) {
  if (driver_.cuModuleEnumerateFunctions == nullptr || driver_.cuModuleGetFunctionCount == nullptr ||
      driver_.cuFuncGetName == nullptr) {
    return unsupported(record.header.call);
  }
  CUmodule module = nullptr;
  if (!resolve(record.hmod, module)) return CUDA_ERROR_INVALID_HANDLE;
  unsigned count = 0;
  if (const CUresult result = driver_.cuModuleGetFunctionCount(&count, module); result != CUDA_SUCCESS)
    return result;
  if (count > max_functions) return CUDA_ERROR_OUT_OF_MEMORY;
  std::vector<CUfunction> functions(count);
  if (count != 0) {
    const CUresult result = driver_.cuModuleEnumerateFunctions(functions.data(), count, module);
    if (result != CUDA_SUCCESS) return result;
  }
  std::vector<const char*> names;
  for (const CUfunction function : functions) {
    const char* name = nullptr;
    if (const CUresult result = driver_.cuFuncGetName(&name, function); result != CUDA_SUCCESS) return result;
    names.push_back(name != nullptr ? name : "");
  }
  reply.count = count;
  write_names(names, record.names, reply.name_bytes);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuLibraryEnumerateKernels& record,
                         reply::cuLibraryEnumerateKernels& reply, Tail) {
  if (driver_.cuLibraryEnumerateKernels == nullptr || driver_.cuLibraryGetKernelCount == nullptr ||
      driver_.cuKernelGetName == nullptr) {
    return unsupported(record.header.call);
  }
  CUlibrary library = nullptr;
  if (!resolve(record.library, library)) return CUDA_ERROR_INVALID_HANDLE;
  unsigned count = 0;
  if (const CUresult result = driver_.cuLibraryGetKernelCount(&count, library); result != CUDA_SUCCESS)
    return result;
  if (count > max_functions) return CUDA_ERROR_OUT_OF_MEMORY;
  std::vector<CUkernel> kernels(count);
  if (count != 0) {
    const CUresult result = driver_.cuLibraryEnumerateKernels(kernels.data(), count, library);
    if (result != CUDA_SUCCESS) return result;
  }
  std::vector<const char*> names;
  for (const CUkernel kernel : kernels) {
    const char* name = nullptr;
    if (const CUresult result = driver_.cuKernelGetName(&name, kernel); result != CUDA_SUCCESS) return result;
    names.push_back(name != nullptr ? name : "");
  }
  reply.count = count;
  write_names(names, record.names, reply.name_bytes);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuLibraryGetUnifiedFunction& record,
                         reply::cuLibraryGetUnifiedFunction& reply, Tail tail) {
  if (driver_.cuLibraryGetUnifiedFunction == nullptr) return unsupported(record.header.call);
  CUlibrary library = nullptr;
  if (!resolve(record.library, library)) return CUDA_ERROR_INVALID_HANDLE;
  std::string name;
  put_name(tail, name);
  void* function = nullptr;
  const CUresult result = driver_.cuLibraryGetUnifiedFunction(&function, library, name.c_str());
  reply.function = reinterpret_cast<std::uint64_t>(function);
  return result;
}

CUresult Session::handle(const record::cuLinkCreate_v2& record, reply::cuLinkCreate_v2&, Tail tail) {
  if (driver_.cuLinkCreate_v2 == nullptr || driver_.cuLinkDestroy == nullptr)
    return unsupported(record.header.call);
  if (!can_bind(HandleKind::linker, record.state)) return CUDA_ERROR_INVALID_HANDLE;
  if (linkers_.size() >= max_linkers) return CUDA_ERROR_OUT_OF_MEMORY;
  auto linker = std::make_unique<Linker>();
  CUresult result = linker->jit.read(record.option_count, tail);
  if (result != CUDA_SUCCESS) return result;
  result = driver_.cuLinkCreate_v2(linker->jit.count(), linker->jit.options(), linker->jit.values(),
                                   &linker->state);
  if (result == CUDA_SUCCESS) linkers_[record.state] = std::move(linker);
  return result;
}

CUresult Session::handle(const record::cuLinkAddData_v2& record, reply::cuLinkAddData_v2&, Tail tail) {
  if (driver_.cuLinkAddData_v2 == nullptr) return unsupported(record.header.call);
  const auto found = linkers_.find(record.state);
  if (found == linkers_.end()) return CUDA_ERROR_INVALID_HANDLE;
  if (record.type < CU_JIT_INPUT_CUBIN || record.type >= CU_JIT_NUM_INPUT_TYPES)
    return CUDA_ERROR_INVALID_VALUE;
  std::vector<std::byte> image;
  JitState jit;
  CUresult result = fetch_image(record.source, record.token, record.image, image);
  if (result == CUDA_SUCCESS) result = jit.read(record.option_count, tail);
  if (result != CUDA_SUCCESS) return result;
  std::string name;
  put_name(tail, name);
  result =
      driver_.cuLinkAddData_v2(found->second->state, static_cast<CUjitInputType>(record.type), image.data(),
                               record.image.bytes, name.c_str(), jit.count(), jit.options(), jit.values());
  found->second->jit.write_outputs(arena_bytes(record.logs));
  return result;
}

CUresult Session::handle(const record::cuLinkComplete& record, reply::cuLinkComplete& reply, Tail) {
  if (driver_.cuLinkComplete == nullptr) return unsupported(record.header.call);
  const auto found = linkers_.find(record.state);
  if (found == linkers_.end()) return CUDA_ERROR_INVALID_HANDLE;
  void* image = nullptr;
  std::size_t bytes = 0;
  const CUresult result = driver_.cuLinkComplete(found->second->state, &image, &bytes);
  found->second->jit.write_outputs(arena_bytes(record.logs));
  found->second->image = {};
  if (result != CUDA_SUCCESS || image == nullptr) return result;
  found->second->image = {static_cast<const std::byte*>(image), bytes};
  reply.bytes = bytes;
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::link_output& record, reply::link_output&, Tail) {
  const auto found = linkers_.find(record.state);
  if (found == linkers_.end()) return CUDA_ERROR_INVALID_HANDLE;
  const std::span<const std::byte> image = found->second->image;
  const std::span<std::byte> out = arena_bytes(record.block);
  if (record.offset > image.size() || out.size() > image.size() - record.offset)
    return CUDA_ERROR_INVALID_VALUE;
  if (!out.empty()) std::memcpy(out.data(), image.data() + record.offset, out.size());
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuLinkDestroy& record, reply::cuLinkDestroy&, Tail) {
  const auto found = linkers_.find(record.state);
  if (found == linkers_.end()) return CUDA_ERROR_INVALID_HANDLE;
  // The driver writes to the options' buffers until here.
  const CUresult result = driver_.cuLinkDestroy(found->second->state);
  linkers_.erase(found);
  return result;
}

CUresult Session::handle(const record::tensor_map& record, reply::tensor_map& reply, Tail tail) {
  TensorMapRequest request;
  if (tail.size() != sizeof request) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(&request, tail.data(), sizeof request);
  // The driver reads as many elements of each list as the rank says.
  if (request.rank > max_tensor_rank) return CUDA_ERROR_INVALID_VALUE;
  CUtensorMap map{};
  std::memcpy(&map, request.map, sizeof map);
  void* const address = reinterpret_cast<void*>(request.address);  // NOLINT(performance-no-int-to-ptr)
  const auto data_type = static_cast<CUtensorMapDataType>(request.data_type);
  const auto interleave = static_cast<CUtensorMapInterleave>(request.interleave);
  const auto swizzle = static_cast<CUtensorMapSwizzle>(request.swizzle);
  const auto promotion = static_cast<CUtensorMapL2promotion>(request.l2_promotion);
  const auto fill = static_cast<CUtensorMapFloatOOBfill>(request.oob_fill);
  static_assert(sizeof(cuuint64_t) == sizeof(std::uint64_t));
  const auto* const dimensions = reinterpret_cast<const cuuint64_t*>(request.dimensions);
  const auto* const strides = reinterpret_cast<const cuuint64_t*>(request.strides);
  CUresult result = CUDA_ERROR_NOT_SUPPORTED;
  switch (request.form) {
    case TensorMapForm::tiled:
      if (driver_.cuTensorMapEncodeTiled == nullptr) return unsupported(record.header.call);
      result = driver_.cuTensorMapEncodeTiled(&map, data_type, request.rank, address, dimensions, strides,
                                              request.box, request.element_strides, interleave, swizzle,
                                              promotion, fill);
      break;
    case TensorMapForm::im2col:
      if (driver_.cuTensorMapEncodeIm2col == nullptr) return unsupported(record.header.call);
      result = driver_.cuTensorMapEncodeIm2col(&map, data_type, request.rank, address, dimensions, strides,
                                               request.lower_corner, request.upper_corner, request.channels,
                                               request.pixels, request.element_strides, interleave, swizzle,
                                               promotion, fill);
      break;
    case TensorMapForm::im2col_wide:
      if (driver_.cuTensorMapEncodeIm2colWide == nullptr) return unsupported(record.header.call);
      result = driver_.cuTensorMapEncodeIm2colWide(
          &map, data_type, request.rank, address, dimensions, strides, request.lower_corner[0],
          request.upper_corner[0], request.channels, request.pixels, request.element_strides, interleave,
          static_cast<CUtensorMapIm2ColWideMode>(request.wide_mode), swizzle, promotion, fill);
      break;
    case TensorMapForm::replace_address:
      if (driver_.cuTensorMapReplaceAddress == nullptr) return unsupported(record.header.call);
      result = driver_.cuTensorMapReplaceAddress(&map, address);
      break;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  std::memcpy(&reply.map, &map, sizeof map);
  return result;
}

}  // namespace vgpu::worker
