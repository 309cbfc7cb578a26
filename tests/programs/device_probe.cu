// Finds the GPU as Ollama's probe does: dlopen of libcuda.so.1 and plain symbols, no CUDA library linked.
// Prints what was found; the whole probe must take less than its time budget of two seconds.
#include <dlfcn.h>

#include "check.hpp"

namespace {

template <typename Function>
Function find(void* library, const char* name) {
  auto* symbol = reinterpret_cast<Function>(dlsym(library, name));
  EXPECT(symbol != nullptr, "libcuda.so.1 lacks %s", name);
  return symbol;
}

}  // namespace

int main() {
  const double start = check::seconds();
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  EXPECT(library != nullptr, "%s", dlerror());
  const auto init = find<CUresult (*)(unsigned)>(library, "cuInit");
  const auto get_version = find<CUresult (*)(int*)>(library, "cuDriverGetVersion");
  const auto get_count = find<CUresult (*)(int*)>(library, "cuDeviceGetCount");
  const auto get = find<CUresult (*)(CUdevice*, int)>(library, "cuDeviceGet");
  const auto get_attribute =
      find<CUresult (*)(int*, CUdevice_attribute, CUdevice)>(library, "cuDeviceGetAttribute");
  const auto get_name = find<CUresult (*)(char*, int, CUdevice)>(library, "cuDeviceGetName");
  const auto total_memory = find<CUresult (*)(size_t*, CUdevice)>(library, "cuDeviceTotalMem_v2");
  const auto get_bus = find<CUresult (*)(char*, int, CUdevice)>(library, "cuDeviceGetPCIBusId");
  const auto get_uuid = find<CUresult (*)(CUuuid*, CUdevice)>(library, "cuDeviceGetUuid");
  find<void*>(library, "cuDeviceTotalMem");
  find<void*>(library, "cuGetErrorString");
  DRV_OK(init(0));
  int version = 0;
  int count = 0;
  DRV_OK(get_version(&version));
  DRV_OK(get_count(&count));
  EXPECT(count >= 1, "no device");
  for (int i = 0; i < count; ++i) {
    CUdevice device = -1;
    DRV_OK(get(&device, i));
    char name[128] = {};
    char bus[32] = {};
    size_t memory = 0;
    int major = 0;
    int minor = 0;
    CUuuid uuid{};
    DRV_OK(get_name(name, sizeof name, device));
    DRV_OK(get_bus(bus, sizeof bus, device));
    DRV_OK(total_memory(&memory, device));
    DRV_OK(get_attribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
    DRV_OK(get_attribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device));
    DRV_OK(get_uuid(&uuid, device));
    EXPECT(memory > (64U << 20U), "%zu bytes of memory", memory);
    EXPECT(major >= 5, "compute capability %d.%d", major, minor);
    unsigned set = 0;
    for (const char byte : uuid.bytes) set |= static_cast<unsigned char>(byte);
    EXPECT(set != 0, "the UUID is all zeros");
    int domain = -1;
    int number = -1;
    int slot = -1;
    EXPECT(std::sscanf(bus, "%x:%x:%x", &domain, &number, &slot) == 3, "PCI address «%s»", bus);
    std::printf("%d: %s, %d.%d, %zu MiB, %s, driver %d\n", i, name, major, minor, memory >> 20U, bus,
                version);
  }
  dlclose(library);
  const double took = check::seconds() - start;
  EXPECT(took < 2.0, "the probe took %.2f s", took);
  return check::done("device_probe");
}
