// Virtual memory management: cuMemAddressReserve, cuMemCreate, cuMemMap and their kin.
#include <fcntl.h>

#include <cstring>
#include <unordered_map>

#include "softgpu/driver/api.hpp"

using namespace softgpu;

namespace {

// cuMemRelease and cuMemRetainAllocationHandle count references to a handle.
struct HandleCounts {
  std::mutex mutex;
  std::unordered_map<const PhysicalMemory*, unsigned> of;
};

HandleCounts& counts() {
  static auto* const instance = new HandleCounts;
  return *instance;
}

PhysicalMemory* object(CUmemGenericAllocationHandle handle) {
  return reinterpret_cast<PhysicalMemory*>(
      static_cast<std::uintptr_t>(handle));  // NOLINT(performance-no-int-to-ptr)
}

CUmemGenericAllocationHandle retain(Driver& driver, std::shared_ptr<PhysicalMemory> memory) {
  const std::unique_lock lock(counts().mutex);
  PhysicalMemory* const raw = memory.get();
  if (counts().of[raw]++ == 0) driver.physical.add(std::move(memory));
  return reinterpret_cast<std::uintptr_t>(raw);
}

CUresult result_of(const tl::expected<void, MemoryError>& done) {
  return done ? CUDA_SUCCESS : error_of(done.error());
}

bool supported(const Driver& driver, const CUmemAllocationProp& properties) {
  const bool here = driver.device_at(properties.location) != nullptr;
  const unsigned handles = static_cast<unsigned>(properties.requestedHandleTypes);
  return properties.type == CU_MEM_ALLOCATION_TYPE_PINNED && here &&
         (handles & ~unsigned{CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR}) == 0;
}

CUmemAllocationProp properties(int device) {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  return prop;
}

// What cuMemSetAccess says of one device, once it is known to be sound.
CUresult access_of(const Driver& driver, const CUmemAccessDesc& wanted, DeviceMemory::Access& access) {
  if (wanted.location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
  if (!driver.has_device(wanted.location.id)) return CUDA_ERROR_INVALID_VALUE;
  switch (wanted.flags) {
    case CU_MEM_ACCESS_FLAGS_PROT_NONE:
      access = DeviceMemory::Access::none;
      return CUDA_SUCCESS;
    case CU_MEM_ACCESS_FLAGS_PROT_READ:
      access = DeviceMemory::Access::read;
      return CUDA_SUCCESS;
    case CU_MEM_ACCESS_FLAGS_PROT_READWRITE:
      access = DeviceMemory::Access::read_write;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // namespace

SOFTGPU_API cuMemGetAllocationGranularity(std::size_t* granularity, const CUmemAllocationProp* prop,
                                          CUmemAllocationGranularity_flags) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (granularity == nullptr || prop == nullptr || !supported(driver, *prop))
      return CUDA_ERROR_INVALID_VALUE;
    *granularity = DeviceMemory::mapping_granularity;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemAddressReserve(CUdeviceptr* out, std::size_t bytes, std::size_t align, CUdeviceptr wish,
                                unsigned long long flags) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (out == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    const auto address = driver.memory.reserve(bytes, align, wish);
    if (!address) return error_of(address.error());
    *out = *address;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemAddressFree(CUdeviceptr address, std::size_t bytes) {
  return with_driver([&](Driver& driver) { return result_of(driver.memory.unreserve(address, bytes)); });
}

SOFTGPU_API cuMemCreate(CUmemGenericAllocationHandle* out, std::size_t bytes, const CUmemAllocationProp* prop,
                        unsigned long long flags) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (out == nullptr || prop == nullptr || flags != 0 || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (!supported(driver, *prop)) {
      return prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE ? CUDA_ERROR_INVALID_DEVICE
                                                                : CUDA_ERROR_NOT_SUPPORTED;
    }
    if (bytes % DeviceMemory::mapping_granularity != 0) return CUDA_ERROR_INVALID_VALUE;
    auto memory = driver.memory.create_physical(bytes, prop->location.id);
    if (!memory) return error_of(memory.error());
    *out = retain(driver, std::move(*memory));
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemRelease(CUmemGenericAllocationHandle handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto memory = driver.physical.find(object(handle));
    if (memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const std::unique_lock lock(counts().mutex);
    if (--counts().of[memory.get()] == 0) {
      counts().of.erase(memory.get());
      driver.physical.remove(memory.get());
    }
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemMap(CUdeviceptr address, std::size_t bytes, std::size_t offset,
                     CUmemGenericAllocationHandle handle, unsigned long long flags) {
  return with_driver([&](Driver& driver) -> CUresult {
    auto memory = driver.physical.find(object(handle));
    if (memory == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    return result_of(driver.memory.map(address, bytes, offset, std::move(memory), nullptr));
  });
}

SOFTGPU_API cuMemUnmap(CUdeviceptr address, std::size_t bytes) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (Context* const context = current_context(); context != nullptr) context->synchronize();
    return result_of(driver.memory.unmap(address, bytes));
  });
}

SOFTGPU_API cuMemSetAccess(CUdeviceptr address, std::size_t bytes, const CUmemAccessDesc* access,
                           std::size_t count) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (access == nullptr || count == 0 || count > driver.devices.size()) return CUDA_ERROR_INVALID_VALUE;
    std::vector<DeviceMemory::Access> wanted(count);
    for (std::size_t i = 0; i < count; ++i) {
      if (const CUresult error = access_of(driver, access[i], wanted[i]); error != CUDA_SUCCESS) return error;
    }
    for (std::size_t i = 0; i < count; ++i) {
      const auto done = driver.memory.set_access(address, bytes, wanted[i], access[i].location.id);
      if (!done) return error_of(done.error());
    }
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location, CUdeviceptr address) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto mapping = driver.memory.mapping(address);
    if (flags == nullptr || location == nullptr || !mapping) return CUDA_ERROR_INVALID_VALUE;
    const Device* const device = driver.device_at(*location);
    if (device == nullptr && location->type == CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_DEVICE;
    *flags = CU_MEM_ACCESS_FLAGS_PROT_NONE;
    if (device == nullptr) return CUDA_SUCCESS;
    const DeviceMemory::Access access = mapping->access[static_cast<std::size_t>(device->ordinal)];
    if (access == DeviceMemory::Access::read) *flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
    if (access == DeviceMemory::Access::read_write) *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* out, void* address) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto mapping = driver.memory.mapping(reinterpret_cast<std::uintptr_t>(address));
    if (out == nullptr || !mapping) return CUDA_ERROR_INVALID_VALUE;
    *out = retain(driver, mapping->memory);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* prop,
                                                   CUmemGenericAllocationHandle handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto memory = driver.physical.find(object(handle));
    if (prop == nullptr || memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *prop = properties(memory->device());
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemExportToShareableHandle(void* out, CUmemGenericAllocationHandle handle,
                                         CUmemAllocationHandleType type, unsigned long long flags) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto memory = driver.physical.find(object(handle));
    if (out == nullptr || memory == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
    const int fd = fcntl(memory->fd(), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
    std::memcpy(out, &fd, sizeof fd);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* out, void* os_handle,
                                           CUmemAllocationHandleType type) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
    // The descriptor does not say whose memory it is: the current device's.
    const Context* const context = current_context();
    auto memory = PhysicalMemory::import(static_cast<int>(reinterpret_cast<std::intptr_t>(os_handle)),
                                         context != nullptr ? context->device : 0);
    if (!memory || (*memory)->bytes() % DeviceMemory::mapping_granularity != 0)
      return CUDA_ERROR_INVALID_VALUE;
    *out = retain(driver, std::move(*memory));
    return CUDA_SUCCESS;
  });
}
