#include "libclient/cuda/images.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cudaabi/image.hpp"
#include "libclient/cuda/arena_block.hpp"
#include "libclient/cuda/host_memory.hpp"
#include "libclient/cuda/image_transfer.hpp"
#include "libclient/cuda/jit_options.hpp"
#include "protocol/unique_fd.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

// Room for the parameters of any kernel that a compiler makes.
constexpr std::uint64_t kInfoBytes = 16 << 10;

std::span<const std::byte> name_bytes(const char* name) {
  return std::as_bytes(std::span(name, std::strlen(name)));
}

// Fills in a function from what the worker wrote about it.
bool read_info(const std::byte* data, Function& function) {
  FunctionInfo info;
  std::memcpy(&info, data, sizeof info);
  if (info.param_count > (kInfoBytes - sizeof info) / sizeof(ParamLayout)) return false;
  std::vector<KernelParameter> parameters(info.param_count);
  for (std::uint32_t i = 0; i < info.param_count; ++i) {
    ParamLayout place;
    std::memcpy(&place, data + sizeof info + i * sizeof place, sizeof place);
    parameters[i] = {place.offset, place.size};
  }
  function.layout = ParameterLayout(std::move(parameters));
  if (function.layout.total_bytes() > kMaxParameterBytes) return false;
  function.attributes_valid = info.attributes_valid;
  for (auto& of_device : function.attributes) {
    for (std::size_t i = 0; i < function_attribute_count; ++i) of_device[i] = info.attributes[i];
  }
  return true;
}

// Gets a function of a module or a kernel of a library, once for each name.
template <class Record>
CUresult get_function(Call& call, Image& image, ObjectTable<Function>& table, std::uint64_t owner,
                      const char* name, std::uint64_t Record::*handle_field, Record& record,
                      std::uint64_t& out) {
  const std::lock_guard lock(image.mutex);
  if (const auto known = image.functions.find(name); known != image.functions.end()) {
    out = known->second;
    return CUDA_SUCCESS;
  }
  ArenaLease block(call.connection(), kInfoBytes);
  if (!block) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  const auto [function, handle] = table.create();
  if (function == nullptr) {
    block.discard();
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  record.*handle_field = handle;
  record.info = block.span(kInfoBytes);
  CUresult result = call.ask(record, name_bytes(name));
  if (result == CUDA_SUCCESS && !read_info(block.data(), *function)) result = CUDA_ERROR_UNKNOWN;
  block.discard();
  if (result != CUDA_SUCCESS) {
    table.destroy(handle);
    return result;
  }
  function->handle = handle;
  function->owner = owner;
  function->name = name;
  image.functions.emplace(name, handle);
  out = handle;
  return CUDA_SUCCESS;
}

// Reads a file for cuModuleLoad and cuLibraryLoadFromFile, with a NUL behind it in case it is PTX.
bool read_file(const char* path, std::vector<char>& out) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path, "rbe"), &std::fclose);
  if (!file) return false;
  char part[65536];
  std::size_t got = 0;
  while ((got = std::fread(part, 1, sizeof part, file.get())) > 0) out.insert(out.end(), part, part + got);
  out.push_back('\0');
  return true;
}

// Sends an image with JIT options, whose outputs come back whether it was accepted or not.
template <class Record>
CUresult send_with_options(Call& call, const cudaabi::ImageExtent& image, Record& record,
                           const JitOptions& options) {
  ArenaLease logs(call.connection(), options.output_bytes());
  if (!logs) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  std::memset(logs.data(), 0, sizeof(JitOutputs));
  record.logs = logs.span(options.output_bytes());
  record.option_count = static_cast<std::uint32_t>(options.wire().size());
  const CUresult result = send_image(call, image, record, std::as_bytes(options.wire()));
  options.write_back({logs.data(), options.output_bytes()});
  logs.discard();
  return result;
}

// Both options are hints about the program's memory: that the image stays (it is copied at once), and tables
// of host counterparts of device symbols (which nothing in the worker could call).
CUresult check_library_options(unsigned count, const CUlibraryOption* options) {
  // Values may be missing: cuBLASLt passes none with its one option.
  if (count != 0 && options == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < count; ++i) {
    const int option = static_cast<int>(options[i]);
    if (option < 0 || option >= CU_LIBRARY_NUM_OPTIONS) return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult load_library(CUlibrary* out, const void* code, const JitOptions& options) {
  if (out == nullptr || code == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (options.problem() != CUDA_SUCCESS) return options.problem();
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  const auto extent = cudaabi::image_extent(code);
  if (!extent) return CUDA_ERROR_INVALID_IMAGE;
  const auto [image, handle] = call.process().libraries.create();
  if (image == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = CUDA_SUCCESS;
  if (options.empty()) {
    record::cuLibraryLoadData record;
    record.library = handle;
    result = send_image(call, *extent, record);
  } else {
    record::jit_library record;
    record.library = handle;
    result = send_with_options(call, *extent, record, options);
  }
  return hand_out(call.process().libraries, handle, result, out);
}

// The names of a module's functions or a library's kernels, in the driver's order.
template <class Record, class Answer>
CUresult list_names(Call& call, Record& record, Answer& reply, std::vector<std::string>& names) {
  std::uint64_t room = 64 << 10;
  for (int attempt = 0; attempt < 2; ++attempt) {
    ArenaLease block(call.connection(), room);
    if (!block) return CUDA_ERROR_DEVICE_UNAVAILABLE;
    record.names = block.span(room);
    const CUresult result = call.ask(record, reply);
    if (result == CUDA_SUCCESS && reply.name_bytes <= room) {
      const char* text = reinterpret_cast<const char*>(block.data());
      const char* const end = text + reply.name_bytes;
      while (text < end && names.size() < reply.count) {
        const std::size_t size = strnlen(text, static_cast<std::size_t>(end - text));
        names.emplace_back(text, size);
        text += size + 1;
      }
    }
    block.discard();
    if (result != CUDA_SUCCESS) return result;
    if (reply.name_bytes <= room) return names.size() == reply.count ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN;
    room = reply.name_bytes;
    if (room > call.connection().largest_block()) return CUDA_ERROR_OUT_OF_MEMORY;
  }
  return CUDA_ERROR_UNKNOWN;
}

void forget_functions(Process& process, Image& image, ObjectTable<Function>& table) {
  const std::lock_guard lock(image.mutex);
  for (const auto& [name, handle] : image.functions) {
    if (const Function* function = table.find(handle)) {
      for (const auto& counterpart : function->counterparts) {
        if (const std::uint64_t twin = counterpart) process.functions.destroy(twin);
      }
    }
    table.destroy(handle);
  }
  image.functions.clear();
}

template <class Record, class Answer>
CUresult get_global(Call& call, std::uint64_t owner, Record& record, Answer& reply, const char* name,
                    CUdeviceptr* pointer, std::size_t* bytes) {
  if (const CUresult result = call.ask(record, reply, name_bytes(name)); result != CUDA_SUCCESS)
    return result;
  MemoryRange range;
  range.base = reply.dptr;
  range.size = reply.bytes;
  range.kind = MemoryKind::global;
  range.context = call.context() != nullptr ? call.context()->handle : 0;
  range.ordinal = call.context() != nullptr ? call.context()->device : 0;
  range.owner = owner;
  call.process().memory.insert(range);
  if (pointer != nullptr) *pointer = reply.dptr;
  if (bytes != nullptr) *bytes = reply.bytes;
  return CUDA_SUCCESS;
}

}  // namespace

CUresult load_module(Call& call, CUmodule* module, const void* image, const JitOptions& options) {
  if (options.problem() != CUDA_SUCCESS) return options.problem();
  if (module == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto extent = cudaabi::image_extent(image);
  if (!extent) return CUDA_ERROR_INVALID_IMAGE;
  const auto [object, handle] = call.process().modules.create();
  if (object == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  object->context = call.context() != nullptr ? call.context()->handle : 0;
  CUresult result = CUDA_SUCCESS;
  if (options.empty()) {
    record::cuModuleLoadData record;
    record.module = handle;
    result = send_image(call, *extent, record);
  } else {
    record::jit_module record;
    record.module = handle;
    result = send_with_options(call, *extent, record, options);
  }
  return hand_out(call.process().modules, handle, result, module);
}

CUresult module_functions(CUmodule hmod, std::vector<CUfunction>& functions) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (call.process().modules.find(bits(hmod)) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  record::cuModuleEnumerateFunctions record;
  record.hmod = bits(hmod);
  reply::cuModuleEnumerateFunctions reply;
  std::vector<std::string> names;
  if (const CUresult result = list_names(call, record, reply, names); result != CUDA_SUCCESS) return result;
  for (const std::string& name : names) {
    CUfunction function = nullptr;
    if (const CUresult result = cuModuleGetFunction(&function, hmod, name.c_str()); result != CUDA_SUCCESS)
      return result;
    functions.push_back(function);
  }
  return CUDA_SUCCESS;
}

}  // namespace vgpu::client

using namespace vgpu::client;
namespace record = vgpu::record;
namespace reply = vgpu::reply;

VGPU_EXPORT CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  return load_module(call, module, image, {});
}

VGPU_EXPORT CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned int numOptions,
                                        CUjit_option* options, void** optionValues) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  return load_module(call, module, image, JitOptions(numOptions, options, optionValues));
}

VGPU_EXPORT CUresult cuModuleLoadFatBinary(CUmodule* module, const void* fatCubin) {
  return cuModuleLoadData(module, fatCubin);
}

VGPU_EXPORT CUresult cuModuleLoad(CUmodule* module, const char* fname) {
  if (module == nullptr || fname == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::vector<char> contents;
  if (!read_file(fname, contents)) return CUDA_ERROR_FILE_NOT_FOUND;
  return cuModuleLoadData(module, contents.data());
}

VGPU_EXPORT CUresult cuModuleUnload(CUmodule hmod) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  Image* image = call.process().modules.find(bits(hmod));
  if (image == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  forget_functions(call.process(), *image, call.process().functions);
  call.process().memory.remove_owned(MemoryKind::global, bits(hmod));
  call.process().modules.destroy(bits(hmod));
  record::cuModuleUnload record;
  record.hmod = bits(hmod);
  return call.ask(record);
}

VGPU_EXPORT CUresult cuModuleGetFunction(CUfunction* hfunc, CUmodule hmod, const char* name) {
  if (hfunc == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  Image* image = call.process().modules.find(bits(hmod));
  if (image == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  record::cuModuleGetFunction record;
  record.hmod = bits(hmod);
  std::uint64_t handle = 0;
  const CUresult result = get_function(call, *image, call.process().functions, bits(hmod), name,
                                       &record::cuModuleGetFunction::hfunc, record, handle);
  if (result == CUDA_SUCCESS) *hfunc = from_bits<CUfunction>(handle);
  return result;
}

VGPU_EXPORT CUresult cuModuleEnumerateFunctions(CUfunction* functions, unsigned int numFunctions,
                                                CUmodule mod) {
  if (functions == nullptr || numFunctions == 0) return CUDA_ERROR_INVALID_VALUE;
  std::vector<CUfunction> all;
  if (const CUresult result = module_functions(mod, all); result != CUDA_SUCCESS) return result;
  for (unsigned i = 0; i < numFunctions; ++i) functions[i] = i < all.size() ? all[i] : nullptr;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuModuleGetGlobal_v2(CUdeviceptr* dptr, size_t* bytes, CUmodule hmod, const char* name) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (call.process().modules.find(bits(hmod)) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  record::cuModuleGetGlobal_v2 record;
  record.hmod = bits(hmod);
  reply::cuModuleGetGlobal_v2 reply;
  return get_global(call, bits(hmod), record, reply, name, dptr, bytes);
}

VGPU_EXPORT CUresult cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option* jitOptions,
                                       void** jitOptionsValues, unsigned int numJitOptions,
                                       CUlibraryOption* libraryOptions, void**,
                                       unsigned int numLibraryOptions) {
  if (const CUresult result = check_library_options(numLibraryOptions, libraryOptions);
      result != CUDA_SUCCESS)
    return result;
  return load_library(library, code, JitOptions(numJitOptions, jitOptions, jitOptionsValues));
}

VGPU_EXPORT CUresult cuLibraryLoadFromFile(CUlibrary* library, const char* fileName, CUjit_option* jitOptions,
                                           void** jitOptionsValues, unsigned int numJitOptions,
                                           CUlibraryOption* libraryOptions, void** libraryOptionValues,
                                           unsigned int numLibraryOptions) {
  if (fileName == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::vector<char> contents;
  if (!read_file(fileName, contents)) return CUDA_ERROR_FILE_NOT_FOUND;
  return cuLibraryLoadData(library, contents.data(), jitOptions, jitOptionsValues, numJitOptions,
                           libraryOptions, libraryOptionValues, numLibraryOptions);
}

VGPU_EXPORT CUresult cuLibraryUnload(CUlibrary library) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  Image* image = call.process().libraries.find(bits(library));
  if (image == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  forget_functions(call.process(), *image, call.process().kernels);
  for (const std::uint64_t module : image->modules) {
    if (module != 0) call.process().modules.destroy(module);
  }
  call.process().memory.remove_owned(MemoryKind::global, bits(library));
  call.process().memory.remove_owned(MemoryKind::managed, bits(library));
  call.process().mirrors.remove(bits(library));
  call.process().libraries.destroy(bits(library));
  record::cuLibraryUnload record;
  record.library = bits(library);
  return call.ask(record);
}

VGPU_EXPORT CUresult cuLibraryGetKernel(CUkernel* pKernel, CUlibrary library, const char* name) {
  if (pKernel == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  Image* image = call.process().libraries.find(bits(library));
  if (image == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  record::cuLibraryGetKernel record;
  record.library = bits(library);
  std::uint64_t handle = 0;
  const CUresult result = get_function(call, *image, call.process().kernels, bits(library), name,
                                       &record::cuLibraryGetKernel::kernel, record, handle);
  if (result == CUDA_SUCCESS) *pKernel = from_bits<CUkernel>(handle);
  return result;
}

VGPU_EXPORT CUresult cuLibraryEnumerateKernels(CUkernel* kernels, unsigned int numKernels, CUlibrary lib) {
  if (kernels == nullptr || numKernels == 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (call.process().libraries.find(bits(lib)) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  record::cuLibraryEnumerateKernels record;
  record.library = bits(lib);
  reply::cuLibraryEnumerateKernels reply;
  std::vector<std::string> names;
  if (const CUresult result = list_names(call, record, reply, names); result != CUDA_SUCCESS) return result;
  for (unsigned i = 0; i < numKernels; ++i) {
    kernels[i] = nullptr;
    if (i >= names.size()) continue;
    if (const CUresult result = cuLibraryGetKernel(&kernels[i], lib, names[i].c_str());
        result != CUDA_SUCCESS)
      return result;
  }
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuLibraryGetUnifiedFunction(void** fptr, CUlibrary library, const char* symbol) {
  if (fptr == nullptr || symbol == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (call.process().libraries.find(bits(library)) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  record::cuLibraryGetUnifiedFunction record;
  record.library = bits(library);
  reply::cuLibraryGetUnifiedFunction reply;
  if (const CUresult result = call.ask(record, reply, name_bytes(symbol)); result != CUDA_SUCCESS)
    return result;
  *fptr = from_bits<void*>(reply.function);
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuLibraryGetModule(CUmodule* pMod, CUlibrary library) {
  if (pMod == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  Image* image = call.process().libraries.find(bits(library));
  if (image == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const std::lock_guard lock(image->mutex);
  std::uint64_t& known = image->modules[static_cast<std::size_t>(call.context()->device)];
  if (known == 0 || call.process().modules.find(known) == nullptr) {
    record::cuLibraryGetModule record;
    record.library = bits(library);
    record.module = call.mint(vgpu::HandleKind::module);
    if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) {
      call.forget(record.module);
      return result;
    }
    if (Image* module = call.process().modules.find(record.module)) module->context = call.context()->handle;
    known = record.module;
  }
  *pMod = from_bits<CUmodule>(known);
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuLibraryGetGlobal(CUdeviceptr* dptr, size_t* bytes, CUlibrary library,
                                        const char* name) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (call.process().libraries.find(bits(library)) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  record::cuLibraryGetGlobal record;
  record.library = bits(library);
  reply::cuLibraryGetGlobal reply;
  return get_global(call, bits(library), record, reply, name, dptr, bytes);
}

VGPU_EXPORT CUresult cuLibraryGetManaged(CUdeviceptr* dptr, size_t* bytes, CUlibrary library,
                                         const char* name) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (call.process().libraries.find(bits(library)) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  record::cuLibraryGetManaged record;
  record.library = bits(library);
  reply::cuLibraryGetManaged reply;
  if (const CUresult result = call.ask(record, reply, name_bytes(name)); result != CUDA_SUCCESS)
    return result;
  if (const CUresult result = call.process().mirrors.add(call, reply.dptr, reply.bytes, bits(library));
      result != CUDA_SUCCESS) {
    return result;
  }
  if (dptr != nullptr) *dptr = reply.dptr;
  if (bytes != nullptr) *bytes = reply.bytes;
  return CUDA_SUCCESS;
}
