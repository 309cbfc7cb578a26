// Modules, libraries and what is found in them by name.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/worker/first_values.hpp"
#include "daemon/worker/image_text.hpp"
#include "daemon/worker/session.hpp"
#include "protocol/arena.hpp"
#include "protocol/reply_slots.hpp"

namespace vgpu::worker {
namespace {

constexpr std::uint64_t max_image_bytes = std::uint64_t{2} << 30;
constexpr std::size_t image_padding = 64;  // zeros behind an image: the end of a PTX text
constexpr std::uint32_t fatbin_magic = 0xBA55ED50;
constexpr std::uint32_t elf_magic = 0x464C457F;

template <class T>
T read_at(const std::vector<std::byte>& bytes, std::size_t offset) {
  T value{};
  if (offset + sizeof value <= bytes.size()) std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// Checks that the image's own lengths lie inside it: the driver believes them. PTX text gets its NUL.
bool bound_image(std::vector<std::byte>& image) {
  if (image.size() < 16) return false;
  const auto magic = read_at<std::uint32_t>(image, 0);
  const std::uint64_t size = image.size();
  image.insert(image.end(), image_padding, std::byte{0});
  if (magic == fatbin_magic) {
    const std::uint64_t header = read_at<std::uint16_t>(image, 6);
    const auto body = read_at<std::uint64_t>(image, 8);
    return header >= 16 && header <= size && body <= size - header;
  }
  if (magic == elf_magic) {
    if (size < 64) return false;
    const auto sections = read_at<std::uint64_t>(image, 0x28);
    const std::uint64_t count = read_at<std::uint16_t>(image, 0x3C);
    const std::uint64_t entry = read_at<std::uint16_t>(image, 0x3A);
    return sections <= size && count * entry <= size - sections;
  }
  return true;
}

}  // namespace

CUresult Session::fetch_image(std::uint32_t source, std::uint64_t token, const ArenaSpan& span,
                              std::vector<std::byte>& image, bool* variables) {
  if (source == static_cast<std::uint32_t>(ImageSource::block)) {
    const std::span<std::byte> bytes = arena_bytes(span);
    if (bytes.empty()) return CUDA_ERROR_INVALID_VALUE;
    image.assign(bytes.begin(), bytes.end());
  } else if (source == static_cast<std::uint32_t>(ImageSource::memfd)) {
    const UniqueFd fd = take_host_fd(token, span.bytes);
    struct stat status {};
    // Memory only: reading another kind of file may take for ever.
    if (!fd || fcntl(fd.get(), F_GET_SEALS) < 0 || span.bytes > max_image_bytes ||
        fstat(fd.get(), &status) != 0 || static_cast<std::uint64_t>(status.st_size) < span.bytes) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    image.reserve(span.bytes + image_padding);
    image.resize(span.bytes);
    for (std::size_t have = 0; have < image.size();) {
      const ssize_t got = pread(fd.get(), image.data() + have, image.size() - have, static_cast<off_t>(have));
      if (got <= 0) return CUDA_ERROR_INVALID_VALUE;
      have += static_cast<std::size_t>(got);
    }
  } else if (source == static_cast<std::uint32_t>(ImageSource::parts)) {
    image = std::exchange(image_parts_, {});
    if (image.size() != span.bytes) return CUDA_ERROR_INVALID_VALUE;
  } else {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!bound_image(image)) return CUDA_ERROR_INVALID_IMAGE;
  note_text(image, variables);
  return CUDA_SUCCESS;
}

void Session::note_text(std::span<const std::byte> image, bool* variables) {
  if (prints_ && asserts_ && variables == nullptr) return;
  const ImageText text = image_text(image);
  if (variables != nullptr) *variables = text.variables;
  if (text.asserts && !asserts_) {
    asserts_ = true;
    if (parts_.console != nullptr) parts_.console->take_over_stderr();
  }
  if (text.prints && !prints_) {
    prints_ = true;
    completions_.write_out_prints();
    channel_.control().prints.store(1, std::memory_order_release);
  }
}

// Of parts that cannot be one image the record that names it says so: nothing is left of them then.
CUresult Session::handle(const record::image_part& record, reply::image_part&, Tail) {
  ArenaBlock* const block = block_at(channel_.arena(), record.block.offset, record.block.bytes);
  if (block == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (record.offset == 0) image_parts_.clear();
  const bool fits = record.offset == image_parts_.size() &&
                    record.block.bytes <= max_image_bytes - std::min(max_image_bytes, record.offset);
  if (fits) {
    const std::span<const std::byte> bytes = arena_bytes(record.block);
    image_parts_.insert(image_parts_.end(), bytes.begin(), bytes.end());
  } else {
    image_parts_ = {};
  }
  complete_block(*block, fits ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
  return CUDA_SUCCESS;
}

void Session::note_image(std::uint64_t handle, ImageCharges::Held charge) {
  image_charges_.keep(handle, std::move(charge));
  here().page().modules.fetch_add(1, std::memory_order_relaxed);
}

std::vector<ImageCharges::Held> Session::take_lost_charges() {
  return image_charges_.take_if(
      [this](std::uint64_t handle) { return handles_.find(Handle::kind(handle), handle) == nullptr; });
}

CUresult Session::handle(const record::cuModuleLoadData& record, reply::cuModuleLoadData&, Tail) {
  if (driver_.cuModuleLoadData == nullptr) return unsupported(record.header.call);
  std::vector<std::byte> image;
  if (const CUresult result = fetch_image(record.source, record.token, record.image, image);
      result != CUDA_SUCCESS) {
    return result;
  }
  if (!can_bind(HandleKind::module, record.module)) return CUDA_ERROR_INVALID_HANDLE;
  ImageCharges::Held charge;
  if (const CUresult result = image_charges_.charge(image, place(), false, charge); result != CUDA_SUCCESS)
    return result;
  CUmodule module = nullptr;
  const CUresult result = driver_.cuModuleLoadData(&module, image.data());
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::module, record.module, module);
  note_image(record.module, std::move(charge));
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuModuleUnload& record, reply::cuModuleUnload&, Tail) {
  if (driver_.cuModuleUnload == nullptr) return unsupported(record.header.call);
  CUmodule module = nullptr;
  if (!resolve(record.hmod, module)) return CUDA_ERROR_INVALID_HANDLE;
  handles_.forget(HandleKind::module, record.hmod);
  handles_.forget_if(HandleKind::function, [owner = record.hmod](std::uint64_t, std::uint64_t of,
                                                                 std::uint16_t) { return of == owner; });
  // Its kernels may still run.
  const PendingReply pending = defer();
  when_all_done([this, pending, module, charge = image_charges_.take(record.hmod)](CUresult) mutable {
    const CUresult result = driver_.cuModuleUnload(module);
    charge.reset();
    answer(pending, result);
  });
  return deferred;
}

CUresult Session::describe_function(CUfunction function, CUkernel kernel, const ArenaSpan& span) {
  if (span.bytes == 0) return CUDA_SUCCESS;
  const std::span<std::byte> out = arena_bytes(span);
  if (out.size() < sizeof(FunctionInfo)) return CUDA_ERROR_INVALID_VALUE;
  FunctionInfo info;
  for (std::uint32_t i = 0; i < function_attribute_count; ++i) {
    int value = 0;
    CUresult result = CUDA_ERROR_NOT_SUPPORTED;
    const auto attribute = static_cast<CUfunction_attribute>(i);
    if (kernel != nullptr && driver_.cuKernelGetAttribute != nullptr) {
      result = driver_.cuKernelGetAttribute(&value, attribute, kernel, device());
    } else if (function != nullptr && driver_.cuFuncGetAttribute != nullptr) {
      result = driver_.cuFuncGetAttribute(&value, attribute, function);
    }
    if (result == CUDA_SUCCESS) {
      info.attributes[i] = value;
      info.attributes_valid |= 1u << i;
    }
  }
  std::vector<ParamLayout> layout;
  for (std::size_t i = 0; i < 4096; ++i) {
    std::size_t offset = 0;
    std::size_t size = 0;
    CUresult result = CUDA_ERROR_NOT_SUPPORTED;
    if (kernel != nullptr && driver_.cuKernelGetParamInfo != nullptr) {
      result = driver_.cuKernelGetParamInfo(kernel, i, &offset, &size);
    } else if (function != nullptr && driver_.cuFuncGetParamInfo != nullptr) {
      result = driver_.cuFuncGetParamInfo(function, i, &offset, &size);
    }
    if (result == CUDA_ERROR_NOT_SUPPORTED) return result;
    // The driver says "invalid value" behind the last parameter.
    if (result != CUDA_SUCCESS) break;
    layout.push_back({static_cast<std::uint16_t>(offset), static_cast<std::uint16_t>(size)});
    info.param_bytes = static_cast<std::uint32_t>(offset + size);
  }
  info.param_count = static_cast<std::uint32_t>(layout.size());
  std::memcpy(out.data(), &info, sizeof info);
  const std::size_t list = layout.size() * sizeof(ParamLayout);
  if (list != 0 && list <= out.size() - sizeof info)
    std::memcpy(out.data() + sizeof info, layout.data(), list);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuModuleGetFunction& record, reply::cuModuleGetFunction&, Tail tail) {
  if (driver_.cuModuleGetFunction == nullptr) return unsupported(record.header.call);
  CUmodule module = nullptr;
  if (!resolve(record.hmod, module) || !can_bind(HandleKind::function, record.hfunc)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  std::string name;
  put_name(tail, name);
  CUfunction function = nullptr;
  CUresult result = driver_.cuModuleGetFunction(&function, module, name.c_str());
  if (result == CUDA_SUCCESS) result = describe_function(function, nullptr, record.info);
  if (result == CUDA_SUCCESS) {
    bind(HandleKind::function, record.hfunc, function, owner_of(HandleKind::module, record.hmod));
  }
  return result;
}

template <class Image, class Record, class Reply>
CUresult Session::find_variable(CUresult (*find)(CUdeviceptr*, std::size_t*, Image, const char*),
                                const Record& record, std::uint64_t handle, Reply& reply, Tail tail) {
  if (find == nullptr) return unsupported(record.header.call);
  Image image = nullptr;
  if (!resolve(handle, image)) return CUDA_ERROR_INVALID_HANDLE;
  std::string name;
  put_name(tail, name);
  CUdeviceptr pointer = 0;
  std::size_t bytes = 0;
  const CUresult result = find(&pointer, &bytes, image, name.c_str());
  reply.dptr = pointer;
  reply.bytes = bytes;
  return result;
}

CUresult Session::handle(const record::cuModuleGetGlobal_v2& record, reply::cuModuleGetGlobal_v2& reply,
                         Tail tail) {
  return find_variable(driver_.cuModuleGetGlobal_v2, record, record.hmod, reply, tail);
}

CUresult Session::load_library(std::uint64_t handle, std::vector<std::byte> image, bool variables,
                               JitState& jit) {
  // What it names may still need its image.
  if (!can_bind(HandleKind::library, handle) || library_images_.contains(handle))
    return CUDA_ERROR_INVALID_HANDLE;
  ImageCharges::Held charge;
  if (const CUresult result = image_charges_.charge(image, place(), true, charge); result != CUDA_SUCCESS)
    return result;
  CUlibrary library = nullptr;
  std::shared_ptr<const std::vector<std::byte>> kept;
  CUresult result = CUDA_SUCCESS;
  if (variables) {
    kept = std::make_shared<const std::vector<std::byte>>(std::move(image));
    result = load_preserved(driver_, library, *kept, jit.count(), jit.options(), jit.values());
  } else {
    result = driver_.cuLibraryLoadData(&library, image.data(), jit.options(), jit.values(), jit.count(),
                                       nullptr, nullptr, 0);
  }
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::library, handle, library);
  note_image(handle, std::move(charge));
  if (kept != nullptr) library_images_[handle].bytes = std::move(kept);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuLibraryLoadData& record, reply::cuLibraryLoadData&, Tail) {
  if (driver_.cuLibraryLoadData == nullptr) return unsupported(record.header.call);
  std::vector<std::byte> image;
  bool variables = false;
  const CUresult result = fetch_image(record.source, record.token, record.image, image, &variables);
  if (result != CUDA_SUCCESS) return result;
  JitState none;
  return load_library(record.library, std::move(image), variables, none);
}

CUresult Session::handle(const record::cuLibraryUnload& record, reply::cuLibraryUnload&, Tail) {
  if (driver_.cuLibraryUnload == nullptr) return unsupported(record.header.call);
  CUlibrary library = nullptr;
  if (!resolve(record.library, library)) return CUDA_ERROR_INVALID_HANDLE;
  handles_.forget(HandleKind::library, record.library);
  for (const HandleKind kind : {HandleKind::kernel, HandleKind::module, HandleKind::function}) {
    handles_.forget_if(kind, [owner = record.library](std::uint64_t, std::uint64_t of, std::uint16_t) {
      return of == owner;
    });
  }
  const PendingReply pending = defer();
  LibraryImage kept;
  if (auto node = library_images_.extract(record.library)) kept = std::move(node.mapped());
  when_all_done([this, pending, library, charge = image_charges_.take(record.library),
                 kept = std::move(kept)](CUresult) mutable {
    const CUresult result = driver_.cuLibraryUnload(library);
    charge.reset();
    kept = {};
    answer(pending, result);
  });
  return deferred;
}

CUresult Session::handle(const record::cuLibraryGetKernel& record, reply::cuLibraryGetKernel&, Tail tail) {
  if (driver_.cuLibraryGetKernel == nullptr) return unsupported(record.header.call);
  CUlibrary library = nullptr;
  if (!resolve(record.library, library) || !can_bind(HandleKind::kernel, record.kernel)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  std::string name;
  put_name(tail, name);
  CUkernel kernel = nullptr;
  CUresult result = driver_.cuLibraryGetKernel(&kernel, library, name.c_str());
  if (result == CUDA_SUCCESS) result = describe_function(nullptr, kernel, record.info);
  if (result == CUDA_SUCCESS) bind(HandleKind::kernel, record.kernel, kernel, record.library);
  return result;
}

CUresult Session::handle(const record::cuLibraryGetGlobal& record, reply::cuLibraryGetGlobal& reply,
                         Tail tail) {
  const CUresult result = find_variable(driver_.cuLibraryGetGlobal, record, record.library, reply, tail);
  if (const auto image = library_images_.find(record.library); image != library_images_.end())
    image->second.variables_known |= result == CUDA_SUCCESS;
  return result;
}

CUresult Session::handle(const record::cuLibraryGetManaged& record, reply::cuLibraryGetManaged& reply,
                         Tail tail) {
  return find_variable(driver_.cuLibraryGetManaged, record, record.library, reply, tail);
}

}  // namespace vgpu::worker
