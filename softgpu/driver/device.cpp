#include "softgpu/driver/device.hpp"

#include <unistd.h>

#include <climits>
#include <fstream>
#include <sstream>
#include <string_view>

#include "softgpu/driver/driver.hpp"

namespace softgpu {
namespace {

std::string file_text(const char* path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// FNV-1a: not for secrets, but the machine id must not be readable from the UUID either way round by
// accident.
std::uint64_t hash(std::string_view text, std::uint64_t seed) {
  std::uint64_t value = seed;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return value;
}

// kHz, of the fastest processor as the kernel states it.
int clock_rate() {
  static const int rate = [] {
    if (std::ifstream file("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"); file) {
      int khz = 0;
      if (file >> khz && khz > 0) return khz;
    }
    std::istringstream lines(file_text("/proc/cpuinfo"));
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("cpu MHz")) {
        std::istringstream value(line.substr(line.find(':') + 1));
        double mhz = 0;
        if (value >> mhz && mhz > 0) return static_cast<int>(mhz * 1000);
      }
    }
    return 1'000'000;
  }();
  return rate;
}

int cache_size() {
  for (const int name : {_SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE}) {
    const long bytes = sysconf(name);
    if (bytes > 0) return static_cast<int>(std::min<long>(bytes, INT_MAX));
  }
  return 1 << 20;
}

}  // namespace

const std::array<unsigned char, 16>& device_uuid() {
  static const auto uuid = [] {
    const std::string machine = file_text("/etc/machine-id");
    std::array<unsigned char, 16> bytes{};
    const std::uint64_t halves[2] = {hash(machine, 0xcbf29ce484222325ULL),
                                     hash(machine, 0x736f667467707531ULL)};
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<unsigned char>(halves[i / 8] >> (8 * (i % 8)));
    }
    bytes[6] =
        static_cast<unsigned char>((bytes[6] & 0x0f) | 0x80);  // version 8: made by the vendor's own rule
    bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3f) | 0x80);
    return bytes;
  }();
  return uuid;
}

std::optional<int> device_attribute(CUdevice_attribute attribute) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      return max_block_threads;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
      return max_block_threads;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
      return max_block_threads;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
      return max_block_z;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
      return max_grid_x;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
      return max_grid_yz;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
      return max_grid_yz;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
      return shared_default;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
      return 65536;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      return warp_size;
    case CU_DEVICE_ATTRIBUTE_MAX_PITCH:
      return INT_MAX;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
      return registers;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
      return clock_rate();
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT:
      return texture_alignment;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT:
      return 32;
    case CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT:
      return 512;
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
      return 1;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return static_cast<int>(Driver::get().executor.threads());
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
      return 1;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
      return CU_COMPUTEMODE_DEFAULT;
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
      return 1;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
      return pci_bus;
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID:
      return pci_device;
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID:
      return pci_domain;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
      return clock_rate();
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
      return 64;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      return cache_size();
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      return resident_threads;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
      return resident_block_limit;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
      return 2;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
      return 1;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return compute_major;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      return compute_minor;
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
      return 0;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED:
      return 1;
    case CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED:
      return 1;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
      return shared_per_multiprocessor;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      return shared_opt_in;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
      return registers;
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
      return 1;
    case CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED:
      return 1;
    case CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO:
      return 2;
    // Managed memory is ordinary memory of this process, so the host may touch it while kernels run.
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
      return 1;
    case CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST:
      return 1;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED:
      return 1;
    case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
      return 1;
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
      return 1;
    case CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED:
      return 1;
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
      return 1;
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR:
      return 1;
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1:
      return 1;
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1:
      return 1;
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1:
      return 1;
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
      return 1;
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
      return 1;
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
      return 1;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
      return 1;
    case CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT:
      return 1;
    case CU_DEVICE_ATTRIBUTE_NUMA_CONFIG:
      return CU_DEVICE_NUMA_CONFIG_NONE;
    case CU_DEVICE_ATTRIBUTE_NUMA_ID:
      return -1;
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID:
      return 0;
    default:
      break;
  }
  // Textures, surfaces, arrays, clusters, multicast and the rest: the device has none of it, so sizes and
  // flags are 0.
  if (attribute > 0 && attribute < CU_DEVICE_ATTRIBUTE_MAX) return 0;
  return std::nullopt;
}

}  // namespace softgpu
