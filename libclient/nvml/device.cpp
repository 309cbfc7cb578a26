// NVML's functions about the device: its identity from the report made at start, its state from the broker at
// each call. Memory is the client's view: a quota looks like the size of the card, as in cuMemGetInfo.

#include <cuda.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "libclient/nvml/nvml.hpp"
#include "libclient/nvml/state.hpp"

namespace {

using namespace vgpu;
using namespace vgpu::nvml;

constexpr unsigned not_available = ~0u;

// Runs `use(report)` for a valid handle and a result pointer that is not null.
template <class Use>
nvmlReturn_t with_report(nvmlDevice_t handle, const void* out, Use use) {
  const auto index = index_of(handle);
  if (!index) return index.error();
  if (out == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const auto report = device(*index);
  return report ? use(*report) : NVML_ERROR_UNINITIALIZED;
}

// The same with the broker's answer of this moment.
template <class Use>
nvmlReturn_t with_status(nvmlDevice_t handle, const void* out, Use use) {
  const auto index = index_of(handle);
  if (!index) return index.error();
  if (out == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const auto status = ask_broker(*index);
  return status ? use(*status) : NVML_ERROR_GPU_IS_LOST;
}

// The same with two devices and whether they are one.
template <class Use>
nvmlReturn_t with_pair(nvmlDevice_t a, nvmlDevice_t b, const void* out, Use use) {
  for (const nvmlDevice_t handle : {a, b}) {
    if (const auto index = index_of(handle); !index) return index.error();
  }
  if (out == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  return use(a == b);
}

// A device attribute, if the device reported it.
nvmlReturn_t attribute(const DeviceReport& report, CUdevice_attribute which, unsigned* out,
                       unsigned divisor = 1) {
  const auto index = static_cast<std::size_t>(which);
  if ((report.attributes_valid[index / 64] >> (index % 64) & 1) == 0) return NVML_ERROR_NOT_SUPPORTED;
  *out = static_cast<unsigned>(report.attributes[index]) / divisor;
  return NVML_SUCCESS;
}

unsigned attribute_or_zero(const DeviceReport& report, CUdevice_attribute which) {
  unsigned value = 0;
  return attribute(report, which, &value) == NVML_SUCCESS ? value : 0;
}

nvmlMemory_t client_memory(const DeviceStatus& status) {
  const std::uint64_t device_total = status.device.total_memory;
  const std::uint64_t total =
      status.memory_quota == 0 ? device_total : std::min(status.memory_quota, device_total);
  const std::uint64_t used = status.memory_quota == 0 ? status.device_memory_used : status.memory_used;
  const std::uint64_t device_free = device_total - std::min(status.device_memory_used, device_total);
  const std::uint64_t available = std::min(total - std::min(used, total), device_free);
  return {total, available, total - available};
}

nvmlReturn_t pci_info(const DeviceReport& report, nvmlPciInfo_t* out) {
  *out = {};
  pci_text(report, true).copy(out->busIdLegacy, sizeof out->busIdLegacy - 1);
  pci_text(report, false).copy(out->busId, sizeof out->busId - 1);
  out->domain = static_cast<unsigned>(report.pci_domain);
  out->bus = static_cast<unsigned>(report.pci_bus);
  out->device = static_cast<unsigned>(report.pci_device);
  out->pciDeviceId = attribute_or_zero(report, CU_DEVICE_ATTRIBUTE_GPU_PCI_DEVICE_ID);
  out->pciSubSystemId = attribute_or_zero(report, CU_DEVICE_ATTRIBUTE_GPU_PCI_SUBSYSTEM_ID);
  return NVML_SUCCESS;
}

// Older callers pass a shorter structure: only its first `bytes` are written.
nvmlReturn_t short_pci_info(nvmlDevice_t handle, void* out, std::size_t bytes) {
  return with_report(handle, out, [&](const DeviceReport& report) {
    nvmlPciInfo_t info;
    pci_info(report, &info);
    std::memcpy(out, &info, bytes);
    return NVML_SUCCESS;
  });
}

void set_process(const ProcessUsage& usage, nvmlProcessInfo_v1_t* out) {
  *out = {static_cast<unsigned>(usage.pid), usage.memory_used};
}
void set_process(const ProcessUsage& usage, nvmlProcessInfo_v2_t* out) {
  *out = {static_cast<unsigned>(usage.pid), usage.memory_used, not_available, not_available};
}

template <class Info>
nvmlReturn_t processes(nvmlDevice_t handle, unsigned* count, Info* out) {
  return with_status(handle, count, [&](const DeviceStatus& status) {
    const auto known = std::min(status.process_count, static_cast<unsigned>(std::size(status.processes)));
    const unsigned room = *count;
    *count = known;
    if (room < known) return NVML_ERROR_INSUFFICIENT_SIZE;
    if (known != 0 && out == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned i = 0; i < known; ++i) set_process(status.processes[i], out + i);
    return NVML_SUCCESS;
  });
}

nvmlReturn_t no_processes(nvmlDevice_t handle, unsigned* count) {
  return with_report(handle, count, [&](const DeviceReport&) {
    *count = 0;
    return NVML_SUCCESS;
  });
}

// nvmlDeviceArchitecture_t.
unsigned architecture(const DeviceReport& report) {
  switch (report.compute_major) {
    case 3:
      return 2;
    case 5:
      return 3;
    case 6:
      return 4;
    case 7:
      return report.compute_minor < 5 ? 5 : 6;
    case 8:
      return report.compute_minor < 9 ? 7 : 8;
    case 9:
      return 9;
    case 10:
    case 12:
      return 10;
    default:
      return not_available;
  }
}

// Cores of a multiprocessor. Source: CUDA C++ Programming Guide, "Compute Capabilities"; 0: not known.
unsigned cores_per_multiprocessor(const DeviceReport& report) {
  switch (report.compute_major) {
    case 3:
      return 192;
    case 5:
      return 128;
    case 6:
      return report.compute_minor == 0 ? 64 : 128;
    case 7:
      return 64;
    case 8:
      return report.compute_minor == 0 ? 64 : 128;
    case 9:
    case 10:
    case 12:
      return 128;
    default:
      return 0;
  }
}

// What the kernel tells of the device's PCIe link, where it is a card that this machine has.
std::string link_text(const DeviceReport& report, const char* what) {
  if (report.software != 0) return {};
  char path[96];
  std::snprintf(path, sizeof path, "/sys/bus/pci/devices/%04x:%02x:%02x.0/%s",
                static_cast<unsigned>(report.pci_domain), static_cast<unsigned>(report.pci_bus),
                static_cast<unsigned>(report.pci_device), what);
  std::ifstream file(path);
  std::string text;
  std::getline(file, text);
  return text;
}

nvmlReturn_t link_width(nvmlDevice_t handle, unsigned* width, const char* what) {
  return with_report(handle, width, [&](const DeviceReport& report) {
    const unsigned long lanes = std::strtoul(link_text(report, what).c_str(), nullptr, 10);
    if (lanes == 0 || lanes > 32) return NVML_ERROR_NOT_SUPPORTED;
    *width = static_cast<unsigned>(lanes);
    return NVML_SUCCESS;
  });
}

// "16.0 GT/s PCIe" is the fourth generation; each doubled the rate but the third.
nvmlReturn_t link_generation(nvmlDevice_t handle, unsigned* generation, const char* what) {
  return with_report(handle, generation, [&](const DeviceReport& report) {
    const double rate = std::strtod(link_text(report, what).c_str(), nullptr);
    constexpr double rates[] = {2.5, 5, 8, 16, 32, 64};
    for (unsigned i = 0; i < std::size(rates); ++i) {
      if (rate < rates[i] * 0.99 || rate > rates[i] * 1.01) continue;
      *generation = i + 1;
      return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_SUPPORTED;
  });
}

// What is off or absent, seen from a client: MIG, displays, other boards.
nvmlReturn_t zero(nvmlDevice_t handle, unsigned* out) {
  return with_report(handle, out, [&](const DeviceReport&) {
    *out = 0;
    return NVML_SUCCESS;
  });
}

}  // namespace

NVML_EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t handle, char* name, unsigned length) {
  return with_report(handle, name,
                     [&](const DeviceReport& report) { return copy_text(report.name, name, length); });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t handle, char* uuid, unsigned length) {
  return with_report(handle, uuid,
                     [&](const DeviceReport& report) { return copy_text(uuid_text(report), uuid, length); });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t handle, unsigned* out) {
  const auto index = index_of(handle);
  if (!index) return index.error();
  if (out == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *out = *index;
  return NVML_SUCCESS;
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t handle, unsigned* minor) {
  return nvmlDeviceGetIndex(handle, minor);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t handle, unsigned* brand) {
  return with_report(handle, brand, [&](const DeviceReport&) {
    *brand = 0;  // NVML_BRAND_UNKNOWN: the driver API does not tell it
    return NVML_SUCCESS;
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t handle, unsigned* out) {
  return with_report(handle, out, [&](const DeviceReport& report) {
    *out = architecture(report);
    return NVML_SUCCESS;
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t handle, int* major, int* minor) {
  return with_report(handle, major, [&](const DeviceReport& report) {
    if (minor == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
    *major = report.compute_major;
    *minor = report.compute_minor;
    return NVML_SUCCESS;
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t handle, nvmlPciInfo_t* out) {
  return with_report(handle, out, [&](const DeviceReport& report) { return pci_info(report, out); });
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t handle, void* out) {
  return short_pci_info(handle, out, offsetof(nvmlPciInfo_t, busId));
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t handle, void* out) {
  return short_pci_info(handle, out, offsetof(nvmlPciInfo_t, pciSubSystemId));
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t handle, nvmlPciInfoExt_v1_t* out) {
  return with_report(handle, out, [&](const DeviceReport& report) {
    if (out->version != nvml_struct_version(sizeof *out, 1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlPciInfo_t info;
    pci_info(report, &info);
    constexpr unsigned display_class = 3, controller_3d = 2;
    *out = {out->version,        info.domain,   info.bus,      info.device, info.pciDeviceId,
            info.pciSubSystemId, display_class, controller_3d, {}};
    std::memcpy(out->busId, info.busId, sizeof out->busId);
    return NVML_SUCCESS;
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t handle, nvmlMemory_t* out) {
  return with_status(handle, out, [&](const DeviceStatus& status) {
    *out = client_memory(status);
    return NVML_SUCCESS;
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t handle, nvmlMemory_v2_t* out) {
  return with_status(handle, out, [&](const DeviceStatus& status) {
    if (out->version != nvml_struct_version(sizeof *out, 2)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    const nvmlMemory_t memory = client_memory(status);
    *out = {out->version, memory.total, 0, memory.free, memory.used};
    return NVML_SUCCESS;
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t handle, nvmlUtilization_t* out) {
  return with_status(handle, out, [&](const DeviceStatus& status) {
    *out = {std::min(status.gpu_busy_percent, 100u), std::min(status.memory_busy_percent, 100u)};
    return NVML_SUCCESS;
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t handle, unsigned* count,
                                                              nvmlProcessInfo_v1_t* out) {
  return processes(handle, count, out);
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t handle, unsigned* count,
                                                                 nvmlProcessInfo_v2_t* out) {
  return processes(handle, count, out);
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t handle, unsigned* count,
                                                                 nvmlProcessInfo_v2_t* out) {
  return processes(handle, count, out);
}

// Clients here compute; none draws.
NVML_EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t handle, unsigned* count, void*) {
  return no_processes(handle, count);
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t handle, unsigned* count,
                                                                  void*) {
  return no_processes(handle, count);
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t handle, unsigned* count,
                                                                  void*) {
  return no_processes(handle, count);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t handle, unsigned* mode) {
  return with_report(handle, mode, [&](const DeviceReport& report) {
    return attribute(report, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, mode);
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMemoryBusWidth(nvmlDevice_t handle, unsigned* bits) {
  return with_report(handle, bits, [&](const DeviceReport& report) {
    return attribute(report, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, bits);
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t handle, int type, unsigned* megahertz) {
  return with_report(handle, megahertz, [&](const DeviceReport& report) {
    constexpr unsigned kilo = 1000;
    switch (type) {
      case 0:  // graphics
      case 1:  // SM
        return attribute(report, CU_DEVICE_ATTRIBUTE_CLOCK_RATE, megahertz, kilo);
      case 2:
        return attribute(report, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, megahertz, kilo);
      default:
        return NVML_ERROR_NOT_SUPPORTED;
    }
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t handle, unsigned* is_mig) {
  return zero(handle, is_mig);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceOnSameBoard(nvmlDevice_t a, nvmlDevice_t b, int* same) {
  return with_pair(a, b, same, [&](bool one) {
    *same = one ? 1 : 0;
    return NVML_SUCCESS;
  });
}

// Which of a client's devices are peers libcuda says; the topology between cards is not shown.
NVML_EXPORT nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t a, nvmlDevice_t b, int index, int* status) {
  constexpr int ok = 0, not_supported = 5;  // nvmlGpuP2PStatus_t
  constexpr int indices = 5;                // nvmlGpuP2PCapsIndex_t, but for its last, which is "unknown"
  return with_pair(a, b, status, [&](bool one) {
    if (index < 0 || index >= indices) return NVML_ERROR_INVALID_ARGUMENT;
    *status = one ? ok : not_supported;
    return NVML_SUCCESS;
  });
}

// No field is known here; each value says so itself, as NVML prescribes for fields that a device lacks.
NVML_EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t handle, int count, nvmlFieldValue_t* values) {
  return with_report(handle, values, [&](const DeviceReport&) {
    for (int i = 0; i < count; ++i) values[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
    return NVML_SUCCESS;
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t handle, unsigned* cores) {
  return with_report(handle, cores, [&](const DeviceReport& report) {
    const unsigned each = cores_per_multiprocessor(report);
    unsigned multiprocessors = 0;
    if (each == 0) return NVML_ERROR_NOT_SUPPORTED;
    const nvmlReturn_t result = attribute(report, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &multiprocessors);
    if (result == NVML_SUCCESS) *cores = each * multiprocessors;
    return result;
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t handle, unsigned* current, unsigned* pending) {
  return with_report(handle, current, [&](const DeviceReport& report) {
    if (pending == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
    const nvmlReturn_t result = attribute(report, CU_DEVICE_ATTRIBUTE_ECC_ENABLED, current);
    if (result == NVML_SUCCESS) *pending = *current;
    return result;
  });
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t handle, unsigned* current, unsigned* pending) {
  const nvmlReturn_t result = zero(handle, current);
  return result == NVML_SUCCESS ? zero(handle, pending) : result;
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t handle, unsigned* count) {
  return zero(handle, count);
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t handle, unsigned* enabled) {
  return zero(handle, enabled);
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t handle, unsigned* active) {
  return zero(handle, active);
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetMultiGpuBoard(nvmlDevice_t handle, unsigned* several) {
  return zero(handle, several);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t handle, unsigned* count,
                                                                 void*) {
  return no_processes(handle, count);
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t handle, unsigned* count,
                                                                    void*) {
  return no_processes(handle, count);
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t handle, unsigned* count,
                                                                    void*) {
  return no_processes(handle, count);
}

// Where the devices lie to each other is not known here.
NVML_EXPORT nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t a, nvmlDevice_t b, int* level) {
  return with_pair(a, b, level, [&](bool one) {
    if (!one) return NVML_ERROR_NOT_SUPPORTED;
    *level = 0;  // NVML_TOPOLOGY_INTERNAL
    return NVML_SUCCESS;
  });
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t handle, int, unsigned* count,
                                                          nvmlDevice_t*) {
  return zero(handle, count);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t handle, unsigned* generation) {
  return link_generation(handle, generation, "max_link_speed");
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t handle, unsigned* generation) {
  return link_generation(handle, generation, "current_link_speed");
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t handle, unsigned* width) {
  return link_width(handle, width, "max_link_width");
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t handle, unsigned* width) {
  return link_width(handle, width, "current_link_width");
}
