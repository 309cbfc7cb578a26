// NVML's functions that are about no device, and those that find one.

#include <algorithm>
#include <cctype>
#include <fstream>
#include <optional>
#include <string>

#include "libclient/nvml/nvml.hpp"
#include "libclient/nvml/state.hpp"

namespace {

using namespace vgpu;
using namespace vgpu::nvml;

constexpr unsigned flag_no_gpus = 1;

// NVML asks the CUDA library, for which it need not be initialised.
nvmlReturn_t cuda_version(int* version) {
  if (version == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (const auto report = device(0)) {
    *version = report->driver_version;
    return NVML_SUCCESS;
  }
  const auto status = ask_broker(0);
  if (!status) return status.error();
  *version = status->device.driver_version;
  return NVML_SUCCESS;
}

nvmlReturn_t give_handle(std::optional<unsigned> index, nvmlDevice_t* out) {
  if (!initialized()) return NVML_ERROR_UNINITIALIZED;
  if (out == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (!index) return NVML_ERROR_NOT_FOUND;
  *out = device_handle(*index);
  return NVML_SUCCESS;
}

// Bus ids compare without regard to case and to leading zeros of the domain.
std::string normal_bus_id(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  if (std::count(text.begin(), text.end(), ':') == 1) text = "0:" + text;
  const auto digit = text.find_first_not_of('0');
  return digit == std::string::npos ? text : text.substr(digit);
}

}  // namespace

int vgpu_nvml_not_implemented() {
  return initialized() ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_UNINITIALIZED;
}

NVML_EXPORT nvmlReturn_t nvmlInit() {
  return initialize(false);
}
NVML_EXPORT nvmlReturn_t nvmlInit_v2() {
  return initialize(false);
}
NVML_EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
  return initialize((flags & flag_no_gpus) != 0);
}
NVML_EXPORT nvmlReturn_t nvmlShutdown() {
  return shut_down();
}

NVML_EXPORT const char* nvmlErrorString(nvmlReturn_t result) {
  switch (static_cast<int>(result)) {
    case 0:
      return "Success";
    case 1:
      return "Uninitialized";
    case 2:
      return "Invalid Argument";
    case 3:
      return "Not Supported";
    case 4:
      return "Insufficient Permissions";
    case 5:
      return "Already Initialized";
    case 6:
      return "Not Found";
    case 7:
      return "Insufficient Size";
    case 8:
      return "Insufficient External Power";
    case 9:
      return "Driver Not Loaded";
    case 10:
      return "Timeout";
    case 11:
      return "Interrupt Request Issue";
    case 12:
      return "NVML Shared Library Not Found";
    case 13:
      return "Function Not Found";
    case 14:
      return "Corrupted infoROM";
    case 15:
      return "GPU is lost";
    case 16:
      return "GPU requires restart";
    case 17:
      return "The operating system has blocked the request.";
    case 18:
      return "Driver/library version mismatch";
    case 19:
      return "In use by another client";
    case 20:
      return "Insufficient Memory";
    case 21:
      return "No data";
    case 25:
      return "Argument version mismatch";
    case 26:
      return "Deprecated";
    case 27:
      return "System is not in ready state";
    case 28:
      return "No GPUs were found";
    default:
      return "Unknown Error";
  }
}

NVML_EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char* version, unsigned length) {
  if (!initialized()) return NVML_ERROR_UNINITIALIZED;
  const auto report = device(0);
  return report ? copy_text(driver_version_text(*report), version, length) : NVML_ERROR_DRIVER_NOT_LOADED;
}

NVML_EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char* version, unsigned length) {
  if (!initialized()) return NVML_ERROR_UNINITIALIZED;
  const auto report = device(0);
  if (!report) return NVML_ERROR_DRIVER_NOT_LOADED;
  // NVML's own version is the CUDA major version and the driver's.
  return copy_text(std::to_string(report->driver_version / 1000) + "." + driver_version_text(*report),
                   version, length);
}

NVML_EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int* version) {
  return cuda_version(version);
}
NVML_EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int* version) {
  return cuda_version(version);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned* count) {
  if (!initialized()) return NVML_ERROR_UNINITIALIZED;
  if (count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *count = device_count();
  return NVML_SUCCESS;
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetCount(unsigned* count) {
  return nvmlDeviceGetCount_v2(count);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t* out) {
  if (initialized() && index >= device_count()) return NVML_ERROR_INVALID_ARGUMENT;
  return give_handle(index, out);
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned index, nvmlDevice_t* out) {
  return nvmlDeviceGetHandleByIndex_v2(index, out);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char* uuid, nvmlDevice_t* out) {
  if (uuid == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  return give_handle(find_device([&](const DeviceReport& report) { return uuid_text(report) == uuid; }), out);
}

NVML_EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, nvmlDevice_t* out) {
  if (bus_id == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const std::string wanted = normal_bus_id(bus_id);
  return give_handle(find_device([&](const DeviceReport& report) {
                       return normal_bus_id(pci_text(report, false)) == wanted;
                     }),
                     out);
}
NVML_EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char* bus_id, nvmlDevice_t* out) {
  return nvmlDeviceGetHandleByPciBusId_v2(bus_id, out);
}

// The program's name as /proc has it: of the processes that the caller can see.
NVML_EXPORT nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char* name, unsigned length) {
  if (!initialized()) return NVML_ERROR_UNINITIALIZED;
  if (name == nullptr || length == 0) return NVML_ERROR_INVALID_ARGUMENT;
  std::ifstream file("/proc/" + std::to_string(pid) + "/cmdline");
  std::string text;
  if (!std::getline(file, text, '\0')) return NVML_ERROR_NOT_FOUND;
  // NVML cuts what does not fit.
  return copy_text(text.substr(0, length - 1), name, length);
}

// S-class units, and devices that the driver was told to leave out: none is visible through vgpud.
NVML_EXPORT nvmlReturn_t nvmlUnitGetCount(unsigned* count) {
  if (!initialized()) return NVML_ERROR_UNINITIALIZED;
  if (count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *count = 0;
  return NVML_SUCCESS;
}
NVML_EXPORT nvmlReturn_t nvmlGetExcludedDeviceCount(unsigned* count) {
  if (count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *count = 0;
  return NVML_SUCCESS;
}
