#include "libclient/nvml/state.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <mutex>
#include <vector>

#include "protocol/message_socket.hpp"
#include "protocol/visible_devices.hpp"

// A device's handle points to one of these objects; its content is never looked at.
struct nvmlDevice_st {
  int unused;
};

namespace vgpu::nvml {
namespace {

constexpr int answer_timeout_ms = 1000;

struct State {
  std::mutex mutex;
  unsigned initializations = 0;
  std::vector<DeviceReport> devices;
};

State& state() {
  static State instance;
  return instance;
}

std::array<nvmlDevice_st, most_listed_devices> handles{};

std::string socket_path() {
  const char* path = std::getenv("VGPUD_SOCKET");
  return path != nullptr ? path : "/run/vgpud/vgpud.sock";
}

}  // namespace

tl::expected<DeviceStatus, nvmlReturn_t> ask_broker(unsigned index) {
  const std::string path = socket_path();
  auto socket = connect_message_socket(path, answer_timeout_ms);
  if (!socket) {
    const bool denied = ::access(path.c_str(), F_OK) == 0 && ::access(path.c_str(), W_OK) != 0;
    return tl::unexpected(denied ? NVML_ERROR_NO_PERMISSION : NVML_ERROR_DRIVER_NOT_LOADED);
  }
  StatusQuery query;
  query.wish = wish_of_environment();
  query.index = index;
  if (!send_message(socket->get(), query)) return tl::unexpected(NVML_ERROR_DRIVER_NOT_LOADED);
  const auto message = receive_message(socket->get(), answer_timeout_ms);
  if (!message) return tl::unexpected(NVML_ERROR_DRIVER_NOT_LOADED);
  if (const auto* status = message->as<DeviceStatus>()) return *status;
  const auto* refused = message->as<Refused>();
  const bool denied = refused != nullptr && refused->code == RefusalCode::not_allowed;
  return tl::unexpected(denied ? NVML_ERROR_NO_PERMISSION : NVML_ERROR_DRIVER_NOT_LOADED);
}

namespace {

tl::expected<std::vector<DeviceReport>, nvmlReturn_t> ask_for_devices() {
  std::vector<DeviceReport> devices;
  std::uint32_t count = 1;
  for (unsigned i = 0; i < count; ++i) {
    const auto status = ask_broker(i);
    if (!status) return tl::unexpected(status.error());
    count = std::min(status->device_count, most_listed_devices);
    devices.push_back(status->device);
  }
  return devices;
}

}  // namespace

nvmlReturn_t initialize(bool without_gpus) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.devices.empty()) {
    auto devices = ask_for_devices();
    if (devices) {
      s.devices = std::move(*devices);
    } else if (!without_gpus) {
      return devices.error();
    }
  }
  ++s.initializations;
  return NVML_SUCCESS;
}

nvmlReturn_t shut_down() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.initializations == 0) return NVML_ERROR_UNINITIALIZED;
  if (--s.initializations == 0) s.devices.clear();
  return NVML_SUCCESS;
}

bool initialized() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  return s.initializations != 0;
}

unsigned device_count() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  return static_cast<unsigned>(s.devices.size());
}

std::optional<DeviceReport> device(unsigned index) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  return index < s.devices.size() ? std::optional(s.devices[index]) : std::nullopt;
}

nvmlDevice_t device_handle(unsigned index) {
  return &handles.at(index);
}

tl::expected<unsigned, nvmlReturn_t> index_of(nvmlDevice_t handle) {
  if (!initialized()) return tl::unexpected(NVML_ERROR_UNINITIALIZED);
  const unsigned count = device_count();
  for (unsigned i = 0; i < count; ++i) {
    if (handle == &handles[i]) return i;
  }
  return tl::unexpected(NVML_ERROR_INVALID_ARGUMENT);
}

nvmlReturn_t copy_text(const std::string& text, char* out, unsigned length) {
  if (out == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (text.size() >= length) return NVML_ERROR_INSUFFICIENT_SIZE;
  std::memcpy(out, text.c_str(), text.size() + 1);
  return NVML_SUCCESS;
}

std::string uuid_text(const DeviceReport& report) {
  std::string text = "GPU-";
  for (std::size_t i = 0; i < std::size(report.uuid); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", report.uuid[i]);
    text += digits;
  }
  return text;
}

std::string pci_text(const DeviceReport& report, bool legacy) {
  char text[32];
  std::snprintf(text, sizeof text, legacy ? "%04X:%02X:%02X.0" : "%08X:%02X:%02X.0",
                static_cast<unsigned>(report.pci_domain), static_cast<unsigned>(report.pci_bus),
                static_cast<unsigned>(report.pci_device));
  return text;
}

std::string driver_version_text(const DeviceReport& report) {
  if (report.software == 0) {
    std::ifstream module("/sys/module/nvidia/version");
    std::string text;
    if (module >> text) return text;
  }
  // CUDA version -> driver release, from the CUDA Toolkit's release notes.
  struct Release {
    int cuda;
    const char* driver;
  };
  static constexpr Release releases[] = {{13010, "590.44.01"}, {13000, "580.65.06"}, {12090, "575.51.03"},
                                         {12080, "570.26"},    {12070, "565.57.01"}, {12060, "560.28.03"},
                                         {12050, "555.42.02"}, {12040, "550.54.14"}, {12030, "545.23.06"},
                                         {12020, "535.54.03"}, {12010, "530.30.02"}, {12000, "525.60.13"}};
  const auto* found = std::find_if(std::begin(releases), std::end(releases), [&](const Release& release) {
    return report.driver_version >= release.cuda;
  });
  return found != std::end(releases) ? found->driver : "450.80.02";
}

}  // namespace vgpu::nvml
