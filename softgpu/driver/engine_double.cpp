#include "softgpu/driver/engine_double.hpp"

#include <chrono>
#include <cstring>
#include <map>
#include <thread>

#include "softgpu/assert_text.hpp"
#include "softgpu/engine.hpp"

namespace softgpu {

class Kernel {
 public:
  std::string name;
  KernelAttributes attributes;
  std::vector<ParamInfo> params;
  Fault (*body)(const Launch& launch) = nullptr;
};

namespace {

std::function<void(std::string_view)>& sink() {
  static std::function<void(std::string_view)> function;
  return function;
}

template <class Value>
Value param(const Launch& launch, std::size_t offset) {
  Value value{};
  std::memcpy(&value, launch.params.data() + offset, sizeof value);
  return value;
}

std::uint32_t* words(const Launch& launch) {
  return reinterpret_cast<std::uint32_t*>(
      param<std::uintptr_t>(launch, 0));  // NOLINT(performance-no-int-to-ptr)
}

Fault run_add(const Launch& launch) {
  for (std::uint32_t i = 0; i < param<std::uint32_t>(launch, 8); ++i)
    words(launch)[i] += param<std::uint32_t>(launch, 12);
  return Fault::none;
}

Fault run_append(const Launch& launch) {
  std::uint32_t* const list = words(launch);
  list[list[0] + 1] = param<std::uint32_t>(launch, 8);
  ++list[0];
  return Fault::none;
}

Fault run_spin(const Launch& launch) {
  const std::atomic_ref<std::uint32_t> word(*words(launch));
  while (word.load(std::memory_order_acquire) == 0) {
    if (launch.cancel != nullptr && launch.cancel->load()) return Fault::launch_timeout;
    std::this_thread::yield();
  }
  return Fault::none;
}

Fault run_fault(const Launch&) {
  return Fault::illegal_address;
}

Fault run_shared(const Launch& launch) {
  *words(launch) = launch.dynamic_shared;
  return Fault::none;
}

Fault run_print(const Launch&) {
  sink()("hello\n");
  return Fault::none;
}

class DoubleModule final : public Module {
 public:
  DoubleModule(DeviceAllocator& memory, const Module* original) : memory_(memory) {
    add("add", {{0, 8}, {8, 4}, {12, 4}}, run_add);
    add("append", {{0, 8}, {8, 4}}, run_append);
    add("spin", {{0, 8}}, run_spin);
    add("fault", {}, run_fault);
    add("shared", {{0, 8}}, run_shared);
    add("print", {}, run_print);
    add("unsupported", {}, nullptr);
    variable_.name = "counter";
    variable_.size = 16;
    variable_.address = memory_.allocate(variable_.size, 16);
    managed_ = variable_;
    managed_.size = 8;
    managed_.name = "managed";
    managed_.address += 8;
    if (original != nullptr) managed_ = *original->find_variable("managed");
  }
  ~DoubleModule() override { memory_.release(variable_.address); }

  const Kernel* find_kernel(std::string_view name) const override {
    const auto found = kernels_.find(std::string(name));
    return found == kernels_.end() ? nullptr : &found->second;
  }
  std::vector<const Kernel*> kernels() const override {
    std::vector<const Kernel*> all;
    for (const auto& [name, kernel] : kernels_) all.push_back(&kernel);
    return all;
  }
  const GlobalVariable* find_variable(std::string_view name) const override {
    if (name == managed_.name) return &managed_;
    return name == variable_.name ? &variable_ : nullptr;
  }

 private:
  void add(const char* name, std::vector<ParamInfo> params, Fault (*body)(const Launch&)) {
    Kernel kernel;
    kernel.name = name;
    kernel.attributes.registers = 16;
    kernel.attributes.static_shared_bytes = 1024;
    kernel.params = std::move(params);
    kernel.body = body;
    kernels_.emplace(name, std::move(kernel));
  }

  DeviceAllocator& memory_;
  std::map<std::string, Kernel> kernels_;
  GlobalVariable variable_;
  GlobalVariable managed_;  // the second half of the same memory
};

}  // namespace

tl::expected<std::unique_ptr<Module>, LoadError> Module::load(std::string_view ptx, DeviceAllocator& memory,
                                                              const Module* original) {
  if (ptx.find("broken") != std::string_view::npos) {
    return tl::unexpected(LoadError{LoadError::Kind::invalid_ptx, 3, "unknown directive '.broken'"});
  }
  return std::make_unique<DoubleModule>(memory, original);
}

std::string_view kernel_name(const Kernel& kernel) {
  return kernel.name;
}
const KernelAttributes& kernel_attributes(const Kernel& kernel) {
  return kernel.attributes;
}
std::span<const ParamInfo> kernel_params(const Kernel& kernel) {
  return kernel.params;
}

tl::expected<void, LoadError> prepare(const Kernel& kernel) {
  if (kernel.body != nullptr) return {};
  return tl::unexpected(LoadError{LoadError::Kind::unsupported, 7, "no such instruction"});
}

struct Executor::Impl {
  std::atomic<std::uint64_t> busy{0};
};

Executor::Executor(unsigned) : impl_(std::make_unique<Impl>()) {}
Executor::~Executor() = default;

LaunchResult Executor::run(const Launch& launch) {
  const auto start = std::chrono::steady_clock::now();
  LaunchResult result;
  result.fault = launch.kernel->body(launch);
  const auto spent = std::chrono::steady_clock::now() - start;
  result.busy_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(spent).count());
  impl_->busy += result.busy_ns;
  const auto size = [](Dim3 d) { return std::uint64_t{d.x} * d.y * d.z; };
  result.lane_instructions = double_instructions * size(launch.grid) * size(launch.block);
  return result;
}

unsigned Executor::threads() const {
  return 2;
}
std::uint64_t Executor::total_lane_instructions() const {
  return 0;
}
std::uint64_t Executor::total_busy_ns() const {
  return impl_->busy.load();
}

void set_printf_sink(std::function<void(std::string_view)> function) {
  sink() = std::move(function);
}

void set_assert_sink(std::function<void(std::string_view)>) {}

}  // namespace softgpu
