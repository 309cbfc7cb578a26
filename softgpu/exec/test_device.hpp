// What the engine's tests share: device memory, and running one kernel of a PTX text.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "softgpu/engine.hpp"
#include "softgpu/memory/address_space.hpp"
#include "softgpu/memory/device_memory.hpp"

namespace softgpu::test {

/// Lanes of a warp.
inline constexpr std::uint32_t warp = 32;

class TestMemory final : public DeviceAllocator {
 public:
  std::uint64_t allocate(std::uint64_t bytes, std::uint64_t) override {
    const auto p = memory().allocate(bytes, MemoryKind::device, nullptr);
    return p ? *p : 0;
  }
  void release(std::uint64_t address) override { (void)memory().release(address, {MemoryKind::device}); }
  static DeviceMemory& memory() {
    static DeviceMemory m(std::uint64_t{1} << 30);
    return m;
  }
};

/// A device array of T, filled from and read back as a vector.
template <class T>
class Array {
 public:
  explicit Array(std::size_t n)
      : size_(n),
        address_(TestMemory::memory().allocate(n * sizeof(T), MemoryKind::device, nullptr).value()) {}
  explicit Array(const std::vector<T>& v) : Array(v.size()) {
    std::memcpy(data(), v.data(), v.size() * sizeof(T));
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { (void)TestMemory::memory().release(address_, {MemoryKind::device}); }
  T* data() const { return reinterpret_cast<T*>(address_); }
  T& operator[](std::size_t i) const { return data()[i]; }
  std::size_t size() const { return size_; }
  std::uint64_t address() const { return address_; }

 private:
  std::size_t size_;
  std::uint64_t address_;
};

inline std::string header() {
  return ".version 9.0\n.target sm_75\n.address_size 64\n";
}

/// Packs kernel parameters at their natural alignments.
class Params {
 public:
  template <class T>
  Params& add(const T& v) {
    bytes_.resize((bytes_.size() + alignof(T) - 1) / alignof(T) * alignof(T));
    const auto* p = reinterpret_cast<const std::byte*>(&v);
    bytes_.insert(bytes_.end(), p, p + sizeof v);
    return *this;
  }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

class Program {
 public:
  explicit Program(const std::string& ptx, unsigned threads = 2) : executor_(threads) {
    auto m = Module::load(ptx, memory_);
    if (!m) {
      ADD_FAILURE() << "line " << m.error().line << ": " << m.error().reason;
      return;
    }
    module_ = std::move(*m);
  }
  LaunchResult run(std::string_view kernel, Dim3 grid, Dim3 block, const Params& params,
                   std::uint32_t shared = 0, bool cooperative = false) {
    Launch l;
    l.kernel = module_ ? module_->find_kernel(kernel) : nullptr;
    l.grid = grid;
    l.block = block;
    l.dynamic_shared = shared;
    l.params = params.bytes();
    l.cooperative = cooperative;
    return executor_.run(l);
  }
  void expect_ok(std::string_view kernel, Dim3 grid, Dim3 block, const Params& params,
                 std::uint32_t shared = 0, bool cooperative = false) {
    const LaunchResult r = run(kernel, grid, block, params, shared, cooperative);
    EXPECT_EQ(r.fault, Fault::none) << r.reason;
  }
  Module& module() { return *module_; }
  Executor& executor() { return executor_; }

 private:
  TestMemory memory_;
  std::unique_ptr<Module> module_;
  Executor executor_;
};

}  // namespace softgpu::test
