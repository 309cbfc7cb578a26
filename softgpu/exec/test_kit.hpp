// For tests of the engine: device memory, an executor, and kernels made of a few instructions, run by one
// warp.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "softgpu/engine.hpp"
#include "softgpu/memory/device_memory.hpp"

namespace softgpu::test {

class Gpu : public DeviceAllocator {
 public:
  /// One for the whole test program.
  static Gpu& get() {
    static Gpu gpu;
    return gpu;
  }

  std::uint64_t allocate(std::uint64_t bytes, std::uint64_t) override {
    return memory_.allocate(bytes, MemoryKind::device, this).value_or(0);
  }
  void release(std::uint64_t address) override { (void)memory_.release(address, {MemoryKind::device}); }

  Executor& executor() { return executor_; }

  /// Runs kernel "k" of `ptx`; parameters are 64-bit values.
  LaunchResult run(const std::string& ptx, Dim3 grid, Dim3 block, const std::vector<std::uint64_t>& params,
                   std::uint32_t dynamic_shared = 0) {
    auto module = Module::load(ptx, *this);
    if (!module) return failure("line " + std::to_string(module.error().line) + ": " + module.error().reason);
    const Kernel* kernel = (*module)->find_kernel("k");
    if (kernel == nullptr) return failure("no kernel k");
    Launch launch;
    launch.kernel = kernel;
    launch.grid = grid;
    launch.block = block;
    launch.dynamic_shared = dynamic_shared;
    launch.params = std::as_bytes(std::span(params));
    return executor_.run(launch);
  }

 private:
  Gpu() : memory_(std::uint64_t{1} << 30), executor_(2) {}
  static LaunchResult failure(std::string reason) {
    LaunchResult r;
    r.fault = Fault::unsupported;
    r.reason = std::move(reason);
    return r;
  }
  DeviceMemory memory_;
  Executor executor_;
};

/// Device memory of `count` elements, zeroed; the host reads and writes it as it is.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::size_t count) : count_(count), address_(Gpu::get().allocate(count * sizeof(T), 256)) {}
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    std::memcpy(data(), values.data(), values.size() * sizeof(T));
  }
  ~Buffer() { Gpu::get().release(address_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  std::uint64_t address() const { return address_; }
  T* data() const { return reinterpret_cast<T*>(address_); }
  T& operator[](std::size_t i) const { return data()[i]; }
  std::size_t size() const { return count_; }

 private:
  std::size_t count_;
  std::uint64_t address_;
};

inline const std::string header = ".version 8.8\n.target sm_75\n.address_size 64\n";

template <class T>
using Lanes = std::array<T, 32>;

/// Random bits, with the values at which integer and floating-point arithmetic turns mixed in.
template <class T>
Lanes<T> some(unsigned seed) {
  std::mt19937_64 random(seed * 7919 + 17);
  Lanes<T> out;
  for (std::size_t i = 0; i < 32; ++i) {
    if constexpr (std::is_floating_point_v<T>) {
      static constexpr T special[] = {T(0), T(-0.0), T(1), T(-1), T(0.5), T(1e30), T(-3.25), T(1e-3)};
      std::uniform_real_distribution<double> value(-1000, 1000);
      out[i] = i % 4 == 3 ? special[(i / 4 + seed) % 8] : static_cast<T>(value(random));
    } else {
      using U = std::make_unsigned_t<T>;
      static constexpr U top = static_cast<U>(U(1) << (8 * sizeof(T) - 1));
      static constexpr U special[] = {U(0), U(1), top, U(top - 1), U(~U(0)), U(2), U(31), U(33)};
      const auto bits = static_cast<U>(random() >> (i % 5 == 0 ? 56 : 0));
      out[i] = static_cast<T>(i % 4 == 3 ? special[(i / 4 + seed) % 8] : bits);
    }
  }
  return out;
}

namespace detail {

template <class T>
constexpr const char* suffix() {
  return sizeof(T) == 1 ? "u8" : sizeof(T) == 2 ? "b16" : sizeof(T) == 4 ? "b32" : "b64";
}
template <class T>
constexpr const char* register_type() {
  return sizeof(T) <= 2 ? "b16" : sizeof(T) == 4 ? "b32" : "b64";
}
template <class T>
std::string access(const char* what, const std::string& name, std::size_t param) {
  const std::string p = "p" + std::to_string(param);
  const std::string at =
      "  ld.param.u64 base, [" + p + "];\n  mad.wide.u32 at, tid, " + std::to_string(sizeof(T)) + ", base;\n";
  const std::string op = std::string(what) + ".global." + suffix<T>();
  return at + (what[0] == 'l' ? "  " + op + " " + name + ", [at];\n" : "  " + op + " [at], " + name + ";\n");
}

}  // namespace detail

/// Runs `body` on one full warp: registers a, b, c, e hold the inputs in order, d (and d2, for a second
/// result of the same type, stored to `second`) is the result. Predicates p, q and 32- and 64-bit scratch
/// registers r, s, rd are there; tid is the lane.
template <class D, class... In>
Lanes<D> run_lanes(const std::string& body, const Lanes<In>&... in) {
  static constexpr const char* names[] = {"a", "b", "c", "e"};
  std::string ptx = header + ".visible .entry k(.param .u64 p0";
  for (std::size_t i = 0; i < sizeof...(In); ++i) ptx += ", .param .u64 p" + std::to_string(i + 1);
  ptx += ")\n{\n  .reg .pred p, q;\n  .reg .b16 h, h2;\n  .reg .b32 tid, r, s;\n  .reg .b64 base, at, rd;\n";
  ptx += std::string("  .reg .") + detail::register_type<D>() + " d, d2;\n";
  std::size_t k = 0;
  ((ptx += std::string("  .reg .") + detail::register_type<In>() + " " + names[k++] + ";\n"), ...);
  ptx += "  mov.u32 tid, %tid.x;\n";
  k = 0;
  ((ptx += detail::access<In>("ld", names[k], k + 1), ++k), ...);
  ptx += detail::access<D>("ld", "d", 0);
  ptx += body + "\n" + detail::access<D>("st", "d", 0) + "  ret;\n}\n";

  Buffer<D> out(32);
  std::vector<std::uint64_t> params{out.address()};
  auto buffers = std::make_tuple(std::make_unique<Buffer<In>>(std::vector<In>(in.begin(), in.end()))...);
  std::apply([&](const auto&... b) { (params.push_back(b->address()), ...); }, buffers);
  const LaunchResult result = Gpu::get().run(ptx, {}, {32, 1, 1}, params);
  EXPECT_EQ(result.fault, Fault::none) << body << ": " << result.reason;
  Lanes<D> d;
  std::memcpy(d.data(), out.data(), sizeof d);
  return d;
}

/// Compares bit by bit and names the first lane that differs.
template <class T>
void expect_same(const std::string& what, const Lanes<T>& got, const Lanes<T>& want) {
  for (std::size_t i = 0; i < 32; ++i) {
    if (std::memcmp(&got[i], &want[i], sizeof(T)) == 0) continue;
    ADD_FAILURE() << what << " lane " << i << ": " << +got[i] << " instead of " << +want[i];
    return;
  }
}

/// Runs `body` on random inputs, several times, and compares with f of each lane's inputs.
template <class D, class... In, class F>
void check(const std::string& body, F f) {
  for (unsigned round = 0; round < 8; ++round) {
    unsigned seed = 4 * round;
    const std::tuple<Lanes<In>...> in{some<In>(seed++)...};
    const Lanes<D> got = std::apply([&](const auto&... lanes) { return run_lanes<D>(body, lanes...); }, in);
    Lanes<D> want;
    for (std::size_t i = 0; i < 32; ++i)
      want[i] = std::apply([&](const auto&... lanes) { return static_cast<D>(f(lanes[i]...)); }, in);
    expect_same(body, got, want);
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace softgpu::test
