// Memory pools shared between processes: the pool is the descriptor of its file, an allocation is where in
// the file it lies.
#include <fcntl.h>
#include <sys/stat.h>

#include <cstring>

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/memory_pool.hpp"

using namespace softgpu;

namespace {

constexpr std::uint64_t piece_magic = 0x314543454950504D;  // "MPPIECE1"

// What a CUmemPoolPtrExportData holds; the rest is zero.
struct ExportedPiece {
  std::uint64_t magic = piece_magic;
  std::uint64_t device = 0;  // of the file
  std::uint64_t inode = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};
static_assert(sizeof(ExportedPiece) <= sizeof(CUmemPoolPtrExportData));

bool describe(int fd, ExportedPiece& piece) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return false;
  piece.device = status.st_dev;
  piece.inode = status.st_ino;
  return true;
}

}  // namespace

SOFTGPU_API cuMemPoolExportToShareableHandle(void* out, CUmemoryPool handle, CUmemAllocationHandleType type,
                                             unsigned long long flags) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto pool = driver.pools.find(handle);
    if (out == nullptr || pool == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
    // A pool is made to be shared or is not; an opened one is its maker's to pass on.
    if (pool->file == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const int fd = fcntl(pool->file->fd(), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
    std::memcpy(out, &fd, sizeof fd);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemPoolImportFromShareableHandle(CUmemoryPool* out, void* os_handle,
                                               CUmemAllocationHandleType type, unsigned long long flags) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (out == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
    // The descriptor does not say whose memory it is: the current device's.
    const Context* const context = current_context();
    const int device = context != nullptr ? context->device : 0;
    auto memory =
        PhysicalMemory::import(static_cast<int>(reinterpret_cast<std::intptr_t>(os_handle)), device);
    if (!memory) return CUDA_ERROR_INVALID_VALUE;
    auto pool = std::make_shared<MemoryPool>(device);
    pool->imported = std::move(*memory);
    *out = pool->handle();
    driver.pools.add(std::move(pool));
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemPoolExportPointer(CUmemPoolPtrExportData* out, CUdeviceptr address) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto found = driver.memory.find(address);
    if (out == nullptr || !found || found->base != address || found->kind != MemoryKind::pool)
      return CUDA_ERROR_INVALID_VALUE;
    const auto pool = driver.pools.find(found->pool);
    const auto offset = driver.memory.offset_in_file(address);
    ExportedPiece piece;
    if (pool == nullptr || pool->file == nullptr || !offset || !describe(pool->file->fd(), piece))
      return CUDA_ERROR_INVALID_VALUE;
    piece.offset = *offset;
    piece.bytes = found->bytes;
    *out = {};
    std::memcpy(out->reserved, &piece, sizeof piece);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemPoolImportPointer(CUdeviceptr* out, CUmemoryPool handle, CUmemPoolPtrExportData* data) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    const auto pool = driver.pools.find(handle);
    if (out == nullptr || data == nullptr || pool == nullptr || pool->imported == nullptr)
      return CUDA_ERROR_INVALID_VALUE;
    ExportedPiece wanted;
    std::memcpy(&wanted, data->reserved, sizeof wanted);
    ExportedPiece here;
    const bool of_this_file =
        describe(pool->imported->fd(), here) && wanted.device == here.device && wanted.inode == here.inode;
    if (wanted.magic != piece_magic || !of_this_file) return CUDA_ERROR_INVALID_VALUE;
    const auto address =
        driver.memory.attach_piece(pool->imported, wanted.offset, wanted.bytes, &context, pool.get());
    if (!address) return error_of(address.error());
    pool->used.fetch_add(wanted.bytes);
    *out = *address;
    return CUDA_SUCCESS;
  });
}
