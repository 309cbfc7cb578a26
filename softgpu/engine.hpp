// The software GPU's engine as its driver sees it: load PTX, look up kernels and variables, run a grid.
//
// The engine knows nothing of streams, contexts or the CUDA API; the driver (softgpu/driver) knows nothing of
// PTX. Device pointers are host addresses of this process inside the device window
// (softgpu/memory/address_space.hpp); a kernel's access outside valid device or registered host memory ends
// the grid with Fault::illegal_address.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace softgpu {

struct Dim3 {
  std::uint32_t x = 1, y = 1, z = 1;
};

/// Where a kernel parameter lies in the packed parameter buffer, in bytes.
struct ParamInfo {
  std::uint32_t offset = 0, size = 0;
};

/// What cuFuncGetAttribute reports; truthful for this engine.
struct KernelAttributes {
  std::uint32_t max_threads_per_block = 1024;
  std::uint32_t static_shared_bytes = 0;
  std::uint32_t const_bytes = 0;
  std::uint32_t local_bytes = 0;  ///< per thread
  std::uint32_t registers = 0;    ///< 32-bit registers a thread, capped at 255
  std::uint32_t ptx_version = 0;  ///< 10 * major + minor
  std::uint32_t required_block[3] = {0, 0, 0};
};

/// What the engine compiles at most: PTX ISA 9 (10 * major + minor) for sm_75. It knows 9.0; text of later
/// minor versions, as newer toolkits than this one write it, is read all the same, and what is new in it
/// refused where it stands.
inline constexpr std::uint32_t newest_ptx_version = 99;
inline constexpr std::uint32_t newest_ptx_target = 75;

class Kernel;  ///< owned by its Module; immutable; decoded at first launch, thread-safely

/// A module-scope variable with its device address.
struct GlobalVariable {
  std::string name;
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  bool is_constant = false;
};

/// Why a PTX text was refused: the first error with its line (1-based).
struct LoadError {
  enum class Kind {
    invalid_ptx,
    newer_version,  ///< PTX of a later version than newest_ptx_version
    unsupported,
    out_of_memory,
    unresolved_symbol
  } kind;
  std::uint32_t line = 0;
  std::string reason;
};

/// Gives a module device memory for its variables; implemented by the driver. Must outlive the module.
class DeviceAllocator {
 public:
  virtual ~DeviceAllocator() = default;
  /// Device memory of `bytes` at `align` (a power of two), zeroed; 0 when there is none.
  virtual std::uint64_t allocate(std::uint64_t bytes, std::uint64_t align) = 0;
  virtual void release(std::uint64_t address) = 0;
};

/// A loaded PTX module: its variables live in device memory for as long as it does.
class Module {
 public:
  virtual ~Module() = default;
  /// Parses all of `ptx` (syntax, target, and whether all names are declared and all functions defined are
  /// checked now, types and forms of instructions when a kernel is decoded at its first launch). With
  /// `original`, a module of the same text that outlives this one, managed variables are the original's.
  static tl::expected<std::unique_ptr<Module>, LoadError> load(std::string_view ptx, DeviceAllocator& memory,
                                                               const Module* original = nullptr);
  /// The kernel of that name, or nullptr. Lives as long as the module.
  virtual const Kernel* find_kernel(std::string_view name) const = 0;
  virtual std::vector<const Kernel*> kernels() const = 0;
  virtual const GlobalVariable* find_variable(std::string_view name) const = 0;
};

std::string_view kernel_name(const Kernel& kernel);
const KernelAttributes& kernel_attributes(const Kernel& kernel);
std::span<const ParamInfo> kernel_params(const Kernel& kernel);
/// Decodes the body now instead of at first launch; false and a reason when an instruction is not supported.
tl::expected<void, LoadError> prepare(const Kernel& kernel);

/// What ended a grid.
enum class Fault : std::uint8_t {
  none,
  illegal_address,
  misaligned_address,
  illegal_instruction,
  trap,            ///< `trap;` or a failed assertion
  assert_failed,   ///< __assertfail was called
  stack_overflow,  ///< recursion deeper than the local-memory limit
  launch_timeout,  ///< Launch::cancel was set
  unsupported,     ///< the body holds an instruction the engine does not know (reason in the result)
  out_of_memory,
};

struct Launch {
  const Kernel* kernel = nullptr;
  Dim3 grid, block;
  std::uint32_t dynamic_shared = 0;           ///< bytes
  std::span<const std::byte> params;          ///< packed as kernel_params says
  bool cooperative = false;                   ///< all blocks resident; grid barriers allowed
  const std::atomic<bool>* cancel = nullptr;  ///< optional; polled, ends the grid with launch_timeout
};

struct LaunchResult {
  Fault fault = Fault::none;
  std::uint64_t address = 0;  ///< of the faulting access, if it has one
  std::string reason;         ///< human-readable: kernel, line, what happened
  std::uint64_t lane_instructions = 0;
  std::uint64_t busy_ns = 0;  ///< CPU time spent by all threads that ran blocks
};

/// Runs grids on a fixed set of threads. Thread-safe: several grids may run at once; run() blocks until its
/// grid has ended and lends the calling thread to it.
class Executor {
 public:
  /// `threads` = 0: as many as this process may use (sched_getaffinity).
  explicit Executor(unsigned threads = 0);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  LaunchResult run(const Launch& launch);
  unsigned threads() const;
  /// Sum over all grids so far.
  std::uint64_t total_lane_instructions() const;
  std::uint64_t total_busy_ns() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Where device-side printf goes, whole formatted lines' bytes; the driver sets it once (default: stdout).
void set_printf_sink(std::function<void(std::string_view)> sink);

}  // namespace softgpu
