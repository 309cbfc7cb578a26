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

bool supported(const CUmemAllocationProp& properties) {
  const bool here = properties.location.type == CU_MEM_LOCATION_TYPE_DEVICE && properties.location.id == 0;
  const unsigned handles = static_cast<unsigned>(properties.requestedHandleTypes);
  return properties.type == CU_MEM_ALLOCATION_TYPE_PINNED && here &&
         (handles & ~unsigned{CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR}) == 0;
}

CUmemAllocationProp properties() {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  return prop;
}

}  // namespace

SOFTGPU_API cuMemGetAllocationGranularity(std::size_t* granularity, const CUmemAllocationProp* prop,
                                          CUmemAllocationGranularity_flags) {
  return with_driver([&](Driver&) -> CUresult {
    if (granularity == nullptr || prop == nullptr || !supported(*prop)) return CUDA_ERROR_INVALID_VALUE;
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
    if (!supported(*prop)) {
      return prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE ? CUDA_ERROR_INVALID_DEVICE
                                                                : CUDA_ERROR_NOT_SUPPORTED;
    }
    if (bytes % DeviceMemory::mapping_granularity != 0) return CUDA_ERROR_INVALID_VALUE;
    auto memory = driver.memory.create_physical(bytes);
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
    if (access == nullptr || count != 1) return CUDA_ERROR_INVALID_VALUE;
    const CUmemLocation& where = access->location;
    if (where.type == CU_MEM_LOCATION_TYPE_DEVICE && where.id != 0) return CUDA_ERROR_INVALID_DEVICE;
    if (where.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
    switch (access->flags) {
      case CU_MEM_ACCESS_FLAGS_PROT_NONE:
        return result_of(driver.memory.set_access(address, bytes, DeviceMemory::Access::none));
      case CU_MEM_ACCESS_FLAGS_PROT_READ:
        return result_of(driver.memory.set_access(address, bytes, DeviceMemory::Access::read));
      case CU_MEM_ACCESS_FLAGS_PROT_READWRITE:
        return result_of(driver.memory.set_access(address, bytes, DeviceMemory::Access::read_write));
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
  });
}

SOFTGPU_API cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location, CUdeviceptr address) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto mapping = driver.memory.mapping(address);
    if (flags == nullptr || location == nullptr || !mapping) return CUDA_ERROR_INVALID_VALUE;
    *flags = CU_MEM_ACCESS_FLAGS_PROT_NONE;
    if (location->type != CU_MEM_LOCATION_TYPE_DEVICE || location->id != 0) return CUDA_SUCCESS;
    if (mapping->access == DeviceMemory::Access::read) *flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
    if (mapping->access == DeviceMemory::Access::read_write) *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
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
    if (prop == nullptr || driver.physical.find(object(handle)) == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *prop = properties();
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
    auto memory = PhysicalMemory::import(static_cast<int>(reinterpret_cast<std::intptr_t>(os_handle)));
    if (!memory || (*memory)->bytes() % DeviceMemory::mapping_granularity != 0)
      return CUDA_ERROR_INVALID_VALUE;
    *out = retain(driver, std::move(*memory));
    return CUDA_SUCCESS;
  });
}
