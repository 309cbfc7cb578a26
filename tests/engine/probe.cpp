// Looks for a GPU as Ollama's server does: a short-lived process that loads libcuda.so.1 and
// libnvidia-ml.so.1 by name, finds functions by dlsym and asks for little. Prints what it found as "key
// value" lines. Exit status 0: a device that Ollama would use; 1: it would be dropped, with the reason on
// standard error.

#include <dlfcn.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace {

// Below this driver release Ollama leaves a device out.
constexpr int oldest_driver = 570;

class Library {
 public:
  explicit Library(const char* name) : name_(name), handle_(::dlopen(name, RTLD_NOW)) {
    if (handle_ == nullptr) throw std::runtime_error(::dlerror());
  }

  // Calls a function that returns 0 for success.
  template <class... Arguments>
  void call(const char* function, Arguments... arguments) const {
    void* symbol = ::dlsym(handle_, function);
    if (symbol == nullptr) throw std::runtime_error(name_ + " lacks " + function);
    const int result = reinterpret_cast<int (*)(Arguments...)>(symbol)(arguments...);
    if (result != 0) throw std::runtime_error(std::string(function) + " returned " + std::to_string(result));
  }

 private:
  std::string name_;
  void* handle_;  // stays loaded, as in Ollama
};

void require(bool condition, const char* reason) {
  if (!condition) throw std::runtime_error(reason);
}

void probe() {
  const Library cuda("libcuda.so.1");
  cuda.call("cuInit", 0U);
  int version = 0, count = 0, device = -1;
  cuda.call("cuDriverGetVersion", &version);
  cuda.call("cuDeviceGetCount", &count);
  require(count > 0, "no device");
  cuda.call("cuDeviceGet", &device, 0);
  constexpr int capability_major = 75, capability_minor = 76, integrated = 18;
  int major = 0, minor = 0, is_integrated = -1;
  cuda.call("cuDeviceGetAttribute", &major, capability_major, device);
  cuda.call("cuDeviceGetAttribute", &minor, capability_minor, device);
  cuda.call("cuDeviceGetAttribute", &is_integrated, integrated, device);
  std::array<char, 256> name{}, bus_id{};
  std::size_t total = 0;
  cuda.call("cuDeviceGetName", name.data(), static_cast<int>(name.size()), device);
  cuda.call("cuDeviceTotalMem_v2", &total, device);
  cuda.call("cuDeviceGetPCIBusId", bus_id.data(), static_cast<int>(bus_id.size()), device);
  require(major >= 5, "compute capability below 5.0");
  require(total != 0, "no memory");
  std::array<unsigned char, 16> uuid{};
  cuda.call("cuDeviceGetUuid_v2", uuid.data(), device);

  const Library nvml("libnvidia-ml.so.1");
  nvml.call("nvmlInit_v2");
  std::array<char, 80> driver{}, nvml_name{}, nvml_uuid{};
  nvml.call("nvmlSystemGetDriverVersion", driver.data(), static_cast<unsigned>(driver.size()));
  require(std::atoi(driver.data()) >= oldest_driver, "the driver is too old");
  void* handle = nullptr;
  nvml.call("nvmlDeviceGetHandleByPciBusId_v2", static_cast<const char*>(bus_id.data()), &handle);
  nvml.call("nvmlDeviceGetName", handle, nvml_name.data(), static_cast<unsigned>(nvml_name.size()));
  nvml.call("nvmlDeviceGetUUID", handle, nvml_uuid.data(), static_cast<unsigned>(nvml_uuid.size()));
  std::array<unsigned long long, 3> memory{};  // total, free, used
  nvml.call("nvmlDeviceGetMemoryInfo", handle, memory.data());
  nvml.call("nvmlShutdown");

  require(std::string(name.data()) == nvml_name.data(), "libcuda and libnvidia-ml name different devices");
  std::string text = "GPU-";
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    std::array<char, 4> digits{};
    const bool dash = i == 4 || i == 6 || i == 8 || i == 10;
    std::snprintf(digits.data(), digits.size(), dash ? "-%02x" : "%02x", uuid[i]);
    text += digits.data();
  }
  require(text == nvml_uuid.data(), "libcuda and libnvidia-ml give different UUIDs");
  require(memory[0] == total, "libcuda and libnvidia-ml differ about the memory");
  require(memory[1] != 0, "no free memory");
  std::printf("name %s\nuuid %s\npci %s\ncapability %d.%d\ncuda %d\ndriver %s\ntotal %zu\nfree %llu\n",
              name.data(), nvml_uuid.data(), bus_id.data(), major, minor, version, driver.data(), total,
              memory[1]);
}

}  // namespace

int main() {
  const auto start = std::chrono::steady_clock::now();
  try {
    probe();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "the GPU would be dropped: %s\n", error.what());
    return 1;
  }
  const auto elapsed = std::chrono::steady_clock::now() - start;
  std::printf("milliseconds %.1f\n", std::chrono::duration<double, std::milli>(elapsed).count());
  return 0;
}
