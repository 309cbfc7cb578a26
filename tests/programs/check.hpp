// What every CUDA test program shares: checks that say which line failed and end the process with 1, and a
// small deterministic random source. It never prints on success except through done().
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace check {

[[noreturn]] inline void fail(const char* file, int line, const char* what, const char* detail) {
  std::fflush(stdout);
  std::fprintf(stderr, "FAILED %s:%d: %s%s%s\n", file, line, what, *detail != '\0' ? ": " : "", detail);
  std::fflush(stderr);
  std::_Exit(1);
}

inline void runtime(cudaError_t result, cudaError_t wanted, const char* file, int line, const char* what) {
  if (result == wanted) return;
  char detail[256];
  std::snprintf(detail, sizeof detail, "returned %s (%d), wanted %s", cudaGetErrorName(result), result,
                cudaGetErrorName(wanted));
  fail(file, line, what, detail);
}

inline void driver(CUresult result, CUresult wanted, const char* file, int line, const char* what) {
  if (result == wanted) return;
  char detail[256];
  std::snprintf(detail, sizeof detail, "returned CUresult %d, wanted %d", result, wanted);
  fail(file, line, what, detail);
}

/// A deterministic 32-bit generator (xorshift); the same sequence on every run.
class Random {
 public:
  explicit Random(uint32_t seed) : state_(seed != 0 ? seed : 1) {}
  uint32_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    state_ ^= state_ << 5;
    return state_;
  }
  /// In [0, 1).
  float unit() { return static_cast<float>(next() >> 8) / 16777216.0F; }

 private:
  uint32_t state_;
};

/// FNV-1a over 8-byte words and the tail: tells apart contents, not meant to resist anybody.
inline uint64_t hash(const void* data, size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  uint64_t value = 1469598103934665603ULL ^ size;
  size_t at = 0;
  for (; at + 8 <= size; at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + at, 8);
    value = (value ^ word) * 1099511628211ULL;
    value ^= value >> 29;
  }
  for (; at < size; ++at) value = (value ^ bytes[at]) * 1099511628211ULL;
  return value;
}

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// True where `got` is within `relative` of `wanted` (absolute below 1).
inline bool near(double got, double wanted, double relative) {
  if (std::isnan(wanted)) return std::isnan(got);
  if (std::isinf(wanted)) return got == wanted;
  return std::fabs(got - wanted) <= relative * std::fmax(1.0, std::fabs(wanted));
}

/// Holds a stream up from a host function until release(); gives up after 20 seconds and then fails the
/// program, so that a call which wrongly waits for the held stream is a failure and no hang.
class HeldStream {
 public:
  explicit HeldStream(cudaStream_t stream) {
    runtime(cudaLaunchHostFunc(stream, hold, this), cudaSuccess, __FILE__, __LINE__, "cudaLaunchHostFunc");
  }
  void release() {
    if (gave_up_) fail(__FILE__, __LINE__, "a call waited for a stream that it has nothing to do with", "");
    released_ = true;
  }

 private:
  static void hold(void* self_pointer) {
    auto* self = static_cast<HeldStream*>(self_pointer);
    const double end = seconds() + 20.0;
    while (!self->released_ && seconds() < end) std::this_thread::sleep_for(std::chrono::microseconds(50));
    if (!self->released_) self->gave_up_ = true;
  }

  std::atomic<bool> released_{false};
  std::atomic<bool> gave_up_{false};
};

inline int done(const char* name) {
  std::printf("%s: ok\n", name);
  return 0;
}

}  // namespace check

/// The runtime call must succeed.
#define CUDA_OK(call) ::check::runtime((call), cudaSuccess, __FILE__, __LINE__, #call)
/// The runtime call must return exactly this error.
#define CUDA_IS(call, wanted) ::check::runtime((call), (wanted), __FILE__, __LINE__, #call)
/// The driver call must succeed.
#define DRV_OK(call) ::check::driver((call), CUDA_SUCCESS, __FILE__, __LINE__, #call)
/// The driver call must return exactly this error.
#define DRV_IS(call, wanted) ::check::driver((call), (wanted), __FILE__, __LINE__, #call)
/// The condition must hold; the rest is a printf format and its arguments that say what was seen.
#define EXPECT(condition, ...)                                         \
  do {                                                                 \
    if (!(condition)) {                                                \
      char expect_detail[256];                                         \
      std::snprintf(expect_detail, sizeof expect_detail, __VA_ARGS__); \
      ::check::fail(__FILE__, __LINE__, #condition, expect_detail);    \
    }                                                                  \
  } while (false)
