// An allocation of cuMemCreate, shared by a file descriptor: exported, sent over a socket, imported and
// mapped in another process, which reads and writes the same memory.
#include <sys/mman.h>

#include "shared_values.hpp"
#include "two_processes.hpp"

namespace {

CUmemAllocationProp properties() {
  CUmemAllocationProp made{};
  made.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  made.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  made.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  return made;
}

size_t granularity() {
  const CUmemAllocationProp prop = properties();
  size_t bytes = 0;
  DRV_OK(cuMemGetAllocationGranularity(&bytes, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  return bytes;
}

/// An allocation mapped whole at an address of its own.
class Mapping {
 public:
  Mapping(CUmemGenericAllocationHandle memory, size_t bytes) : bytes_(bytes) {
    DRV_OK(cuMemAddressReserve(&address_, bytes, 0, 0, 0));
    DRV_OK(cuMemMap(address_, bytes, 0, memory, 0));
    CUmemAccessDesc access{};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    DRV_OK(cuMemSetAccess(address_, bytes, &access, 1));
  }
  int* values() const { return reinterpret_cast<int*>(address_); }
  void end() {
    DRV_OK(cuMemUnmap(address_, bytes_));
    DRV_OK(cuMemAddressFree(address_, bytes_));
  }

 private:
  CUdeviceptr address_ = 0;
  size_t bytes_;
};

void parent(check::Partner child) {
  CUDA_OK(cudaFree(nullptr));
  const size_t bytes = granularity();
  const int n = static_cast<int>(bytes / sizeof(int));
  const CUmemAllocationProp prop = properties();
  CUmemGenericAllocationHandle memory = 0;
  DRV_OK(cuMemCreate(&memory, bytes, &prop, 0));
  Mapping mapping(memory, bytes);
  check::fill<<<(n + 255) / 256, 256>>>(mapping.values(), n, 5);
  CUDA_OK(cudaDeviceSynchronize());
  int fd = -1;
  DRV_OK(cuMemExportToShareableHandle(&fd, memory, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  EXPECT(fd >= 0, "no descriptor: %d", fd);
  child.send('f', fd);
  close(fd);
  child.meet();  // it has added
  check::expect_values(mapping.values(), n, 105);
  mapping.end();
  DRV_OK(cuMemRelease(memory));
  child.meet();
  child.finish();
}

void child(check::Partner parent) {
  CUDA_OK(cudaFree(nullptr));
  int fd = -1;
  static_cast<void>(parent.receive<char>(&fd));
  CUmemGenericAllocationHandle memory = 0;
  DRV_OK(cuMemImportFromShareableHandle(&memory, reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  close(fd);
  const size_t bytes = granularity();
  const int n = static_cast<int>(bytes / sizeof(int));
  Mapping mapping(memory, bytes);
  check::expect_values(mapping.values(), n, 5);
  check::add<<<(n + 255) / 256, 256>>>(mapping.values(), n, 100);
  CUDA_OK(cudaDeviceSynchronize());
  // The handle may go before the mapping.
  DRV_OK(cuMemRelease(memory));
  parent.meet();
  parent.meet();
  check::expect_values(mapping.values(), n, 105);  // and the other process's before ours
  mapping.end();

  // A file of anybody's own making names nothing.
  const int empty = memfd_create("empty", 0);
  EXPECT(empty >= 0 && ftruncate(empty, 64) == 0, "errno %d", errno);
  const CUresult imported =
      cuMemImportFromShareableHandle(&memory, reinterpret_cast<void*>(static_cast<intptr_t>(empty)),
                                     CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  // NVIDIA's driver 580 answers with the second.
  EXPECT(imported == CUDA_ERROR_INVALID_VALUE || (imported == CUDA_ERROR_UNKNOWN && check::nvidias_driver()),
         "it opened: CUresult %d", imported);
  close(empty);
}

}  // namespace

int main(int argc, char**) {
  if (argc > 1) {
    child(check::Partner());
    return 0;
  }
  parent(check::Partner("child"));
  return check::done("vmm_share");
}
