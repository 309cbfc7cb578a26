// What the library knows between calls: how often it was initialised, and the devices it was told of then.
// Everything that changes (memory, load, processes) is asked of the broker anew. Never: opens a session or
// loads CUDA.
#pragma once

#include <optional>
#include <string>
#include <tl/expected.hpp>

#include "libclient/nvml/nvml.hpp"
#include "protocol/handshake.hpp"

namespace vgpu::nvml {

/// Asks the broker (VGPUD_SOCKET, by default the service's socket) for the present state of a device of the
/// list. Waits at most a second; a missing broker fails at once. Errors: DRIVER_NOT_LOADED, NO_PERMISSION.
tl::expected<DeviceStatus, nvmlReturn_t> ask_broker(unsigned index);

/// Counts an initialisation; the first one asks the broker for the devices: the one that CUDA gives this
/// process and, where CUDA_VISIBLE_DEVICES names it by index, those before it, so that the index finds it
/// here too. `without_gpus`: succeed where there is no device.
nvmlReturn_t initialize(bool without_gpus);

/// Takes back one initialisation; UNINITIALIZED when there is none.
nvmlReturn_t shut_down();

/// True between initialize() and the last shut_down().
bool initialized();

/// How many devices there are. Thread-safe, as all that follow.
unsigned device_count();

/// A device as it was when the library was initialised; nothing when there is none with this index.
std::optional<DeviceReport> device(unsigned index);

/// The device whose report satisfies `fits`; nothing when there is none.
template <class Fits>
std::optional<unsigned> find_device(Fits fits) {
  for (unsigned i = 0; i < device_count(); ++i) {
    if (const auto report = device(i); report && fits(*report)) return i;
  }
  return std::nullopt;
}

/// The handle of a device; its index is below device_count().
nvmlDevice_t device_handle(unsigned index);

/// The index that a handle stands for, if the library is initialised and the handle names a device; else
/// UNINITIALIZED or INVALID_ARGUMENT. A handle may be any value.
tl::expected<unsigned, nvmlReturn_t> index_of(nvmlDevice_t handle);

/// Copies text with its terminator to a caller's buffer of `length` bytes, or says that it does not fit.
nvmlReturn_t copy_text(const std::string& text, char* out, unsigned length);

/// "GPU-" and the UUID as NVIDIA's tools write it.
std::string uuid_text(const DeviceReport& report);

/// Domain:bus:device.function; the domain has eight digits, or four in the `legacy` form.
std::string pci_text(const DeviceReport& report, bool legacy);

/// The driver's version as NVML gives it ("580.65.06"): the kernel module's own where this machine has it,
/// otherwise the first driver release that brought this CUDA version, since programs compare it with a
/// minimum.
std::string driver_version_text(const DeviceReport& report);

}  // namespace vgpu::nvml
