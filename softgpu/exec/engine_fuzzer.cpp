// Any bytes as a module: refused, or loaded with every kernel decoded; nothing is run.
#include "softgpu/engine.hpp"
#include "softgpu/memory/device_memory.hpp"

namespace {

class Memory final : public softgpu::DeviceAllocator {
 public:
  std::uint64_t allocate(std::uint64_t bytes, std::uint64_t) override {
    return memory_.allocate(bytes, softgpu::MemoryKind::device, this).value_or(0);
  }
  void release(std::uint64_t address) override {
    (void)memory_.release(address, {softgpu::MemoryKind::device});
  }

 private:
  softgpu::DeviceMemory memory_{std::uint64_t{64} << 20};
};

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Memory memory;
  const auto module = softgpu::Module::load({reinterpret_cast<const char*>(data), size}, memory);
  if (!module) return 0;
  for (const softgpu::Kernel* kernel : (*module)->kernels()) {
    const auto ready = softgpu::prepare(*kernel);
    if (!ready && ready.error().reason.empty()) __builtin_trap();
  }
  return 0;
}
