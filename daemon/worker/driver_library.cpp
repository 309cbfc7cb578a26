#include "daemon/worker/driver_library.hpp"

#include <dlfcn.h>

#include <cstring>

#include "daemon/worker/event_gap.hpp"

namespace vgpu::worker {
namespace {

constexpr std::array<unsigned char, 16> meter_uuid = {'s', 'o', 'f', 't', 'g', 'p', 'u', '-',
                                                      'm', 'e', 't', 'e', 'r', '-', '0', '1'};

}  // namespace

std::string driver_error(const DriverTable& driver, const char* call, CUresult result) {
  const char* name = nullptr;
  if (driver.cuGetErrorName != nullptr) driver.cuGetErrorName(result, &name);
  return std::string(call) +
         " failed: " + (name != nullptr ? name : std::to_string(static_cast<int>(result)));
}

tl::expected<std::unique_ptr<DriverLibrary>, std::string> DriverLibrary::open(const std::string& path,
                                                                              int ordinal) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return tl::unexpected(std::string(dlerror()));
  std::unique_ptr<DriverLibrary> driver(new DriverLibrary);
  DriverTable& table = driver->table_;
  load_driver_table(library, table);
  if (table.cuInit == nullptr || table.cuDeviceGet == nullptr || table.cuDevicePrimaryCtxRetain == nullptr ||
      table.cuCtxSetCurrent == nullptr) {
    return tl::unexpected(path + " is not a CUDA driver library");
  }
  if (const CUresult result = table.cuInit(0); result != CUDA_SUCCESS) {
    return tl::unexpected(driver_error(table, "cuInit", result));
  }
  if (const auto retained = driver->add(ordinal); !retained) return tl::unexpected(retained.error());
  if (const CUresult result = table.cuCtxSetCurrent(driver->context()); result != CUDA_SUCCESS) {
    return tl::unexpected(driver_error(table, "cuCtxSetCurrent", result));
  }
  const auto* const meter = static_cast<const MeterTable*>(driver->export_table(meter_uuid));
  if (meter != nullptr && meter->size >= sizeof(MeterTable)) driver->meter_ = meter;
  // The software GPU measures itself.
  if (driver->meter_ == nullptr) {
    driver->event_gap_ns_ = event_gap_ns(table);
    driver->hold_ = std::make_unique<StreamHold>(table);
  }
  return driver;
}

tl::expected<void, std::string> DriverLibrary::add(int ordinal) {
  RetainedDevice added;
  if (const CUresult result = table_.cuDeviceGet(&added.device, ordinal); result != CUDA_SUCCESS) {
    return tl::unexpected(driver_error(table_, "cuDeviceGet", result));
  }
  if (const CUresult result = table_.cuDevicePrimaryCtxRetain(&added.context, added.device);
      result != CUDA_SUCCESS) {
    return tl::unexpected(driver_error(table_, "cuDevicePrimaryCtxRetain", result));
  }
  devices_.push_back(added);
  return {};
}

std::optional<std::uint64_t> DriverLibrary::busy_ns(std::size_t place) const {
  std::uint64_t ns = 0;
  if (meter_ == nullptr || meter_->device_busy_ns(devices_[place].device, &ns) != CUDA_SUCCESS) {
    return std::nullopt;
  }
  return ns;
}

const void* DriverLibrary::export_table(const std::array<unsigned char, 16>& uuid) const {
  if (table_.cuGetExportTable == nullptr) return nullptr;
  CUuuid id;
  std::memcpy(id.bytes, uuid.data(), sizeof id.bytes);
  const void* found = nullptr;
  return table_.cuGetExportTable(&found, &id) == CUDA_SUCCESS ? found : nullptr;
}

DeviceReport DriverLibrary::report() const {
  DeviceReport report;
  report.software = software() ? 1 : 0;
  if (table_.cuDriverGetVersion != nullptr) table_.cuDriverGetVersion(&report.driver_version);
  if (table_.cuDeviceGetName != nullptr)
    table_.cuDeviceGetName(report.name, sizeof report.name - 1, device());
  if (table_.cuDeviceGetUuid_v2 != nullptr) {
    CUuuid uuid{};
    if (table_.cuDeviceGetUuid_v2(&uuid, device()) == CUDA_SUCCESS) std::memcpy(report.uuid, uuid.bytes, 16);
  }
  if (table_.cuDeviceGetPCIBusId != nullptr) {
    table_.cuDeviceGetPCIBusId(report.pci_bus_id, sizeof report.pci_bus_id - 1, device());
  }
  if (table_.cuDeviceTotalMem_v2 != nullptr) {
    std::size_t total = 0;
    if (table_.cuDeviceTotalMem_v2(&total, device()) == CUDA_SUCCESS) report.total_memory = total;
  }
  if (table_.cuDeviceGetAttribute != nullptr) {
    for (std::size_t i = 1; i < attribute_count; ++i) {
      int value = 0;
      if (table_.cuDeviceGetAttribute(&value, static_cast<CUdevice_attribute>(i), device()) == CUDA_SUCCESS) {
        report.attributes[i] = value;
        report.attributes_valid[i / 64] |= std::uint64_t{1} << i % 64;
      }
    }
  }
  report.compute_major = report.attributes[CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR];
  report.compute_minor = report.attributes[CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR];
  report.pci_domain = report.attributes[CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID];
  report.pci_bus = report.attributes[CU_DEVICE_ATTRIBUTE_PCI_BUS_ID];
  report.pci_device = report.attributes[CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID];
  if (table_.cuCtxGetStreamPriorityRange != nullptr) {
    table_.cuCtxGetStreamPriorityRange(&report.least_priority, &report.greatest_priority);
  }
  if (table_.cuModuleGetLoadingMode != nullptr) {
    CUmoduleLoadingMode mode = CU_MODULE_LAZY_LOADING;
    if (table_.cuModuleGetLoadingMode(&mode) == CUDA_SUCCESS) {
      report.module_loading_mode = static_cast<std::uint32_t>(mode);
    }
  }
  if (table_.cuCtxGetApiVersion != nullptr) table_.cuCtxGetApiVersion(context(), &report.context_api_version);
  if (table_.cuCtxGetLimit != nullptr) {
    for (std::size_t i = 0; i < limit_count; ++i) {
      std::size_t value = 0;
      if (table_.cuCtxGetLimit(&value, static_cast<CUlimit>(i)) == CUDA_SUCCESS) {
        report.limits[i] = value;
        report.limits_valid |= 1u << i;
      }
    }
  }
  if (table_.cuMemGetAllocationGranularity != nullptr) {
    CUmemAllocationProp prop{};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = device();
    std::size_t value = 0;
    if (table_.cuMemGetAllocationGranularity(&value, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM) ==
        CUDA_SUCCESS) {
      report.allocation_granularity_min = static_cast<std::uint32_t>(value);
    }
    if (table_.cuMemGetAllocationGranularity(&value, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) ==
        CUDA_SUCCESS) {
      report.allocation_granularity_recommended = static_cast<std::uint32_t>(value);
    }
  }
  return report;
}

}  // namespace vgpu::worker
