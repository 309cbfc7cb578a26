// The client's devices, its contexts by the index that it gives them, which of them is current, and in which
// of them each stream was made. Makes and destroys none: who does says so here.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "daemon/worker/session_parts.hpp"
#include "daemon/worker/stream_ledger.hpp"
#include "daemon/worker/token_bucket.hpp"
#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// One of the client's devices. Dispatcher only but for what is said.
struct OwnDevice {
  CUdevice device = 0;
  CUcontext context = nullptr;       ///< its primary one
  Accounting* accounting = nullptr;  ///< thread-safe
  bool bounded = false;              ///< what is in flight was, when it was last looked at
  TokenBucket launch_bucket;
  TokenBucket byte_bucket;
};

/// Dispatcher only but for in_context().
class ClientContexts {
 public:
  explicit ClientContexts(const SessionParts& parts);
  ClientContexts(const ClientContexts&) = delete;
  ClientContexts& operator=(const ClientContexts&) = delete;

  /// In the client's order; they do not move.
  std::vector<OwnDevice>& devices() { return devices_; }
  const std::vector<OwnDevice>& devices() const { return devices_; }
  bool several_devices() const { return devices_.size() > 1; }
  /// The device with this number of the client's; null: it has none such.
  OwnDevice* device(int number);
  std::size_t place_of(const OwnDevice& device) const {
    return static_cast<std::size_t>(&device - devices_.data());
  }
  /// The device of a context, and of a stream's. Of one that is not known: the current one.
  OwnDevice& device_of(CUcontext context);
  OwnDevice& device_of(CUstream stream) {
    return devices_.size() == 1 ? devices_.front() : device_of(key_of(stream).first);
  }

  /// The current context, its index and its device.
  CUcontext current() const { return contexts_[index_]; }
  std::uint16_t index() const { return index_; }
  OwnDevice& here() { return *here_; }
  const OwnDevice& here() const { return *here_; }
  /// Whether an index is that of a device's primary context. Those come first, in the devices' order.
  bool primary(std::uint16_t index) const { return index < devices_.size(); }
  bool current_is_primary() const { return primary(index_); }
  /// The context of an index, nullptr where there is none; the device of one that is there or was.
  CUcontext at(std::uint16_t index) const { return index < contexts_.size() ? contexts_[index] : nullptr; }
  OwnDevice* device_at(std::uint16_t index) {
    return index < contexts_.size() ? context_devices_[index] : nullptr;
  }
  /// How many there are.
  std::size_t count() const;
  /// Makes a context current in this thread.
  CUresult switch_to(std::uint16_t index);
  /// Whether a context may be made under this index.
  CUresult may_add(std::uint16_t index) const;
  /// Names a context that was made on the current device; then, if that made it current.
  void add(std::uint16_t index, CUcontext context);
  void became_current(std::uint16_t index) { index_ = index; }
  /// It is about to be destroyed.
  void remove(std::uint16_t index) { contexts_[index] = nullptr; }
  /// Runs `call` with a context current in this thread, which need not be the dispatcher.
  template <class F>
  auto in_context(CUcontext context, F&& call) const {
    // Where there is one device any context finds what the call is about.
    CUcontext before = nullptr;
    const bool change = devices_.size() > 1 && driver_.cuCtxGetCurrent != nullptr &&
                        driver_.cuCtxGetCurrent(&before) == CUDA_SUCCESS && before != context;
    if (change) driver_.cuCtxSetCurrent(context);
    auto result = call();
    if (change) driver_.cuCtxSetCurrent(before);
    return result;
  }

  /// A stream with its context: the current one of a legacy stream, and of one that is not known.
  StreamKey key_of(CUstream stream) const;
  void add_stream(CUstream stream, CUcontext context) { streams_[stream] = context; }
  void remove_stream(CUstream stream) { streams_.erase(stream); }
  void remove_streams(CUcontext context);
  void remove_all_streams() { streams_.clear(); }

  /// The client numbers its own devices: such a number becomes the driver's, any other one becomes a number
  /// that no device has; and back.
  void to_driver(CUmemLocation& location) const;
  void to_driver(CUmemPoolProps& props) const { to_driver(props.location); }
  void to_driver(CUmemAccessDesc& access) const { to_driver(access.location); }
  void to_driver(CUmemAllocationProp& prop) const { to_driver(prop.location); }
  void to_client(CUmemAllocationProp& prop) const;

 private:
  const DriverTable& driver_;
  std::vector<OwnDevice> devices_;
  OwnDevice* here_ = nullptr;
  std::vector<CUcontext> contexts_;
  std::vector<OwnDevice*> context_devices_;
  std::uint16_t index_ = 0;
  std::unordered_map<CUstream, CUcontext> streams_;
};

}  // namespace vgpu::worker
