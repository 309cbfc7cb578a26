#include "softgpu/driver/device.hpp"

#include <unistd.h>

#include <charconv>
#include <climits>
#include <cstdlib>
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

int configured_device_count() {
  const char* const set = std::getenv("SOFTGPU_DEVICES");
  if (set == nullptr) return 1;
  const std::string_view text(set);
  int count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error == std::errc{} && end == text.data() + text.size() && count >= 1 && count <= max_devices)
    return count;
  log_line("SOFTGPU_DEVICES must be 1 to 8: there is one device");
  return 1;
}

std::array<unsigned char, 16> device_uuid(int device) {
  static const std::string machine = file_text("/etc/machine-id");
  // The first device's is the machine's alone, whatever comes after it.
  const std::string name = device == 0 ? machine : machine + '/' + std::to_string(device);
  const std::uint64_t halves[2] = {hash(name, 0xcbf29ce484222325ULL), hash(name, 0x736f667467707531ULL)};
  std::array<unsigned char, 16> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<unsigned char>(halves[i / 8] >> (8 * (i % 8)));
  }
  bytes[6] =
      static_cast<unsigned char>((bytes[6] & 0x0f) | 0x80);  // version 8: made by the vendor's own rule
  bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3f) | 0x80);
  return bytes;
}

namespace {

// Clusters, multicast and the rest: the device has none of it, so sizes and flags are 0.
std::array<int, CU_DEVICE_ATTRIBUTE_MAX> attribute_values() {
  std::array<int, CU_DEVICE_ATTRIBUTE_MAX> values{};
  values[CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK] = max_block_threads;
  values[CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X] = max_block_threads;
  values[CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y] = max_block_threads;
  values[CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z] = max_block_z;
  values[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X] = max_grid_x;
  values[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y] = max_grid_yz;
  values[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z] = max_grid_yz;
  values[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK] = shared_default;
  values[CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY] = 65536;
  values[CU_DEVICE_ATTRIBUTE_WARP_SIZE] = warp_size;
  values[CU_DEVICE_ATTRIBUTE_MAX_PITCH] = INT_MAX;
  values[CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK] = registers;
  values[CU_DEVICE_ATTRIBUTE_CLOCK_RATE] = clock_rate();
  values[CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT] = texture_alignment;
  values[CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT] = texture_pitch_alignment;
  values[CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT] = 512;
  values[CU_DEVICE_ATTRIBUTE_GPU_OVERLAP] = 1;
  values[CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT] = static_cast<int>(Driver::get().executor.threads());
  values[CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY] = 1;
  values[CU_DEVICE_ATTRIBUTE_COMPUTE_MODE] = CU_COMPUTEMODE_DEFAULT;
  values[CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS] = 1;
  values[CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID] = pci_device;
  values[CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID] = pci_domain;
  values[CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE] = clock_rate();
  values[CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH] = 64;
  values[CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE] = cache_size();
  values[CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR] = resident_threads;
  values[CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR] = resident_block_limit;
  values[CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT] = 2;
  values[CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING] = 1;
  values[CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR] = compute_major;
  values[CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR] = compute_minor;
  values[CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED] = 0;
  values[CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED] = 1;
  values[CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED] = 1;
  values[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR] = shared_per_multiprocessor;
  values[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN] = shared_opt_in;
  values[CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR] = registers;
  values[CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY] = 1;
  values[CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED] = 1;
  values[CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO] = 2;
  // Managed memory is ordinary memory of this process, so the host may touch it while kernels run.
  values[CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS] = 1;
  values[CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST] = 1;
  values[CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED] = 1;
  values[CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM] = 1;
  values[CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED] = 1;
  values[CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED] = 1;
  values[CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS] = 1;
  values[CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR] = 1;
  values[CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1] = 1;
  values[CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1] = 1;
  values[CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1] = 1;
  values[CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH] = 1;
  values[CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED] = 1;
  values[CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED] = 1;
  values[CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED] = 1;
  values[CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED] = 1;
  values[CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES] = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  values[CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT] = 1;
  values[CU_DEVICE_ATTRIBUTE_NUMA_CONFIG] = CU_DEVICE_NUMA_CONFIG_NONE;
  values[CU_DEVICE_ATTRIBUTE_NUMA_ID] = -1;
  values[CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID] = 0;
  const auto texels = [&values](std::initializer_list<CUdevice_attribute> attributes, unsigned most) {
    for (const CUdevice_attribute attribute : attributes) values[attribute] = static_cast<int>(most);
  };
  texels({CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH,
          CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_WIDTH},
         texture_limits.width_1d);
  texels({CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LINEAR_WIDTH}, texture_limits.linear);
  texels({CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_WIDTH, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_WIDTH,
          CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_WIDTH,
          CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_WIDTH},
         texture_limits.width_2d);
  texels(
      {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_HEIGHT, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_HEIGHT,
       CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_HEIGHT,
       CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_HEIGHT, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_HEIGHT},
      texture_limits.height_2d);
  texels({CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT,
          CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE,
          CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT_ALTERNATE,
          CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_WIDTH,
          CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_HEIGHT, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_DEPTH},
         texture_limits.volume);
  texels({CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_PITCH}, INT_MAX);
  texels(
      {CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_WIDTH,
       CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_WIDTH,
       CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_HEIGHT, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_WIDTH,
       CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH,
       CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_WIDTH,
       CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_WIDTH,
       CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_HEIGHT, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_WIDTH,
       CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH},
      texture_limits.layered_width);
  texels({CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_LAYERS,
          CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_LAYERS,
          CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS,
          CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_LAYERS,
          CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_LAYERS,
          CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS},
         texture_limits.layers);
  return values;
}

}  // namespace

std::optional<int> device_attribute(CUdevice_attribute attribute, int device) {
  static const auto values = attribute_values();
  if (attribute == CU_DEVICE_ATTRIBUTE_PCI_BUS_ID) return pci_bus(device);
  if (attribute <= 0 || attribute >= CU_DEVICE_ATTRIBUTE_MAX) return std::nullopt;
  return values[static_cast<std::size_t>(attribute)];
}

}  // namespace softgpu
