#include "softgpu/driver/module.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "softgpu/driver/device.hpp"
#include "softgpu/driver/driver.hpp"
#include "softgpu/driver/image_source.hpp"
#include "softgpu/driver/library.hpp"

namespace softgpu {
namespace {

// Memory of a module's variables: its context's, or nobody's for a library.
class VariableMemory final : public DeviceAllocator {
 public:
  VariableMemory(const void* owner, int device) : owner_(owner), device_(device) {}
  std::uint64_t allocate(std::uint64_t bytes, std::uint64_t align) override {
    if (align > 4096) return 0;
    const auto address =
        Driver::get().memory.allocate(bytes, MemoryKind::device, owner_, {.device = device_});
    if (address) parts_.push_back({*address, bytes, {}});
    return address ? *address : 0;
  }
  void release(std::uint64_t address) override {
    // May be gone already with its context.
    (void)Driver::get().memory.release(address, {MemoryKind::device});
  }

  /// Remembers what the variables are now.
  void remember() {
    static constexpr std::array<std::byte, page> zeros{};
    for (Part& part : parts_) {
      for (std::uint64_t at = 0; at < part.bytes; at += page) {
        const std::size_t size = std::min(page, part.bytes - at);
        const auto* const from = reinterpret_cast<const std::byte*>(part.address + at);
        if (std::memcmp(from, zeros.data(), size) != 0) part.pages.push_back({at, {from, from + size}});
      }
    }
  }
  void restore() const {
    for (const Part& part : parts_) {
      std::memset(reinterpret_cast<void*>(part.address), 0, part.bytes);
      for (const auto& [at, bytes] : part.pages)
        std::memcpy(reinterpret_cast<void*>(part.address + at), bytes.data(), bytes.size());
    }
  }

 private:
  static constexpr std::uint64_t page = 4096;
  struct Part {
    std::uint64_t address;
    std::uint64_t bytes;
    std::vector<std::pair<std::uint64_t, std::vector<std::byte>>> pages;  // without those of zeros
  };

  std::vector<Part> parts_;
  const void* owner_;
  int device_;
};

// The engine's module together with what must outlive it.
struct Code {
  VariableMemory memory;
  std::shared_ptr<const Module> original;  // whose managed variables it uses
  std::unique_ptr<Module> module;
};

ModuleError module_error(const LoadError& error) {
  std::string log = "line " + std::to_string(error.line) + ": " + error.reason;
  if (error.kind == LoadError::Kind::unsupported) {
    log_refusal("PTX refused: " + log);
  } else {
    log_line("PTX refused: " + log);
  }
  CUresult result = CUDA_ERROR_INVALID_PTX;
  if (error.kind == LoadError::Kind::out_of_memory) result = CUDA_ERROR_OUT_OF_MEMORY;
  if (error.kind == LoadError::Kind::newer_version || error.kind == LoadError::Kind::unsupported)
    result = CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
  if (error.kind == LoadError::Kind::unresolved_symbol) result = CUDA_ERROR_NO_BINARY_FOR_GPU;
  return {result, std::move(log)};
}

// Longest prefix of the parameter buffer that the kernel reads.
std::size_t params_end(std::span<const ParamInfo> params) {
  std::size_t end = 0;
  for (const ParamInfo& param : params) end = std::max<std::size_t>(end, param.offset + param.size);
  return end;
}

CUresult pack_params(const LaunchRequest& request, std::vector<std::byte>& packed) {
  const std::span<const ParamInfo> layout = kernel_params(*request.function->kernel);
  packed.resize(params_end(layout));
  if (request.extra != nullptr) {
    const void* buffer = nullptr;
    const std::size_t* size = nullptr;
    for (void** item = request.extra; *item != CU_LAUNCH_PARAM_END; item += 2) {
      if (*item == CU_LAUNCH_PARAM_BUFFER_POINTER) {
        buffer = item[1];
      } else if (*item == CU_LAUNCH_PARAM_BUFFER_SIZE) {
        size = static_cast<const std::size_t*>(item[1]);
      } else {
        return CUDA_ERROR_INVALID_VALUE;
      }
    }
    if (packed.empty()) return CUDA_SUCCESS;
    if (buffer == nullptr || size == nullptr || *size < packed.size()) return CUDA_ERROR_INVALID_VALUE;
    std::memcpy(packed.data(), buffer, packed.size());
    return CUDA_SUCCESS;
  }
  if (layout.empty()) return CUDA_SUCCESS;
  if (request.params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (std::size_t i = 0; i < layout.size(); ++i) {
    if (request.params[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
    std::memcpy(packed.data() + layout[i].offset, request.params[i], layout[i].size);
  }
  return CUDA_SUCCESS;
}

CUresult check_shape(const LaunchRequest& request) {
  const Dim3& grid = request.grid;
  const Dim3& block = request.block;
  const KernelAttributes& attributes = kernel_attributes(*request.function->kernel);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (grid.x > max_grid_x || grid.y > max_grid_yz || grid.z > max_grid_yz) return CUDA_ERROR_INVALID_VALUE;
  if (block.x > max_block_threads || block.y > max_block_threads || block.z > max_block_z) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  if (threads > max_block_threads) return CUDA_ERROR_INVALID_VALUE;
  if (threads > attributes.max_threads_per_block) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  const auto& required = attributes.required_block;
  if (required[0] != 0 && (block.x != required[0] || block.y != std::max(required[1], 1U) ||
                           block.z != std::max(required[2], 1U))) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const int limit = request.function->dynamic_shared_limit.load(std::memory_order_relaxed);
  if (request.dynamic_shared > static_cast<std::uint32_t>(limit)) return CUDA_ERROR_INVALID_VALUE;
  if (!request.cooperative) return CUDA_SUCCESS;
  const int resident = resident_blocks(*request.function, static_cast<int>(threads), request.dynamic_shared);
  const std::uint64_t capacity = static_cast<std::uint64_t>(resident) * Driver::get().executor.threads();
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  return blocks > capacity ? CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE : CUDA_SUCCESS;
}

}  // namespace

LoadedModule::LoadedModule() = default;
LoadedModule::~LoadedModule() = default;

std::shared_ptr<Function> LoadedModule::find(std::string_view name) const {
  const auto found = std::find_if(functions.begin(), functions.end(),
                                  [&](const auto& function) { return function->name == name; });
  return found == functions.end() ? nullptr : *found;
}

tl::expected<std::shared_ptr<LoadedModule>, ModuleError> load_image(const void* image,
                                                                    const Context* context) {
  auto ptx = ptx_of_image(image);
  if (!ptx) return tl::unexpected(std::move(ptx.error()));
  if (context != nullptr) return load_text(*ptx, context, context->device);
  if (Driver::get().device_count() == 1) return load_text(*ptx, nullptr, 0);
  auto library = load_text(*ptx, nullptr, any_device);
  if (library) (*library)->modules = std::make_unique<LibraryModules>(std::move(*ptx));
  return library;
}

tl::expected<std::shared_ptr<LoadedModule>, ModuleError> load_text(
    std::string_view ptx, const Context* context, int device, const std::shared_ptr<const Module>& original) {
  const int home = device == any_device ? 0 : device;
  auto holder = std::make_shared<Code>(Code{VariableMemory(context, home), original, nullptr});
  auto code = Module::load(ptx, holder->memory, original.get());
  if (!code) return tl::unexpected(module_error(code.error()));
  holder->module = std::move(*code);
  auto loaded = module_of(std::shared_ptr<const Module>(holder, holder->module.get()), context, device);
  if (context == nullptr) {
    holder->memory.remember();
    loaded->restore_variables = [memory = std::shared_ptr<const VariableMemory>(holder, &holder->memory)] {
      memory->restore();
    };
  }
  return loaded;
}

std::shared_ptr<LoadedModule> module_of(std::shared_ptr<const Module> code, const Context* context,
                                        int device) {
  auto loaded = std::make_shared<LoadedModule>();
  loaded->context = context;
  loaded->code = std::move(code);
  for (const Kernel* const kernel : loaded->code->kernels()) {
    auto function = std::make_shared<Function>();
    function->module = loaded;
    function->code = loaded->code;
    function->kernel = kernel;
    function->device = device;
    function->index = loaded->functions.size();
    function->name = kernel_name(*kernel);
    const std::uint32_t fixed = kernel_attributes(*kernel).static_shared_bytes;
    function->dynamic_shared_limit = static_cast<int>(fixed < shared_default ? shared_default - fixed : 0);
    Driver::get().functions.add(function);
    loaded->functions.push_back(std::move(function));
  }
  return loaded;
}

void forget_functions(const LoadedModule& module) {
  for (const auto& function : module.functions) Driver::get().functions.remove(function.get());
}

CUresult make_kernel_work(const LaunchRequest& request, KernelWork& work) {
  if (const CUresult error = check_shape(request); error != CUDA_SUCCESS) return error;
  if (request.params != nullptr && request.extra != nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult error = pack_params(request, work.params); error != CUDA_SUCCESS) return error;
  Function& function = *request.function;
  if (!function.prepared.load(std::memory_order_acquire)) {
    if (const auto ready = prepare(*function.kernel); !ready) {
      log_refusal("kernel " + function.name + " refused: line " + std::to_string(ready.error().line) + ": " +
                  ready.error().reason);
      return CUDA_ERROR_NOT_SUPPORTED;
    }
    function.prepared.store(true, std::memory_order_release);
  }
  work.function = request.function;
  work.grid = request.grid;
  work.block = request.block;
  work.dynamic_shared = request.dynamic_shared;
  work.cooperative = request.cooperative;
  return CUDA_SUCCESS;
}

int resident_blocks(const Function& function, int block_size, std::size_t dynamic_shared) {
  const KernelAttributes& attributes = kernel_attributes(*function.kernel);
  if (block_size <= 0 || static_cast<unsigned>(block_size) > attributes.max_threads_per_block) return 0;
  const unsigned warps = (static_cast<unsigned>(block_size) + warp_size - 1) / warp_size;
  unsigned blocks = std::min(resident_block_limit, resident_threads / warp_size / warps);
  constexpr unsigned register_unit = 256;  // registers are given to whole warps in units of this many
  const unsigned warp_registers =
      (std::max(attributes.registers, 1U) * warp_size + register_unit - 1) / register_unit * register_unit;
  blocks = std::min(blocks, registers / (warp_registers * warps));
  const std::size_t shared = (attributes.static_shared_bytes + dynamic_shared + shared_granularity - 1) /
                             shared_granularity * shared_granularity;
  if (shared > shared_opt_in) return 0;
  if (shared != 0) blocks = std::min(blocks, static_cast<unsigned>(shared_per_multiprocessor / shared));
  return static_cast<int>(blocks);
}

CUresult function_attribute(const Function& function, CUfunction_attribute attribute, int& value) {
  const KernelAttributes& attributes = kernel_attributes(*function.kernel);
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      value = static_cast<int>(attributes.max_threads_per_block);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      value = static_cast<int>(attributes.static_shared_bytes);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
      value = static_cast<int>(attributes.const_bytes);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
      value = static_cast<int>(attributes.local_bytes);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      value = static_cast<int>(attributes.registers);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      // Both name an architecture, 10 * major + minor.
      value = compute_major * 10 + compute_minor;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      value = function.dynamic_shared_limit.load();
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      value = function.carveout.load();
      return CUDA_SUCCESS;
    default:
      break;
  }
  if (attribute < 0 || attribute >= CU_FUNC_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
  value = 0;  // no cache mode, no clusters
  return CUDA_SUCCESS;
}

CUresult set_function_attribute(Function& function, CUfunction_attribute attribute, int value) {
  if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    const int fixed = static_cast<int>(kernel_attributes(*function.kernel).static_shared_bytes);
    if (value < 0 || value > static_cast<int>(shared_opt_in) - fixed) return CUDA_ERROR_INVALID_VALUE;
    function.dynamic_shared_limit.store(value);
    return CUDA_SUCCESS;
  }
  if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) {
    if (value < -1 || value > 100) return CUDA_ERROR_INVALID_VALUE;
    function.carveout.store(value);
    return CUDA_SUCCESS;
  }
  // Clusters need compute capability 9.0; the rest cannot be set.
  return CUDA_ERROR_INVALID_VALUE;
}

}  // namespace softgpu
