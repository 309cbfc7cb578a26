// What a client shares with others besides memory that it allocated by address: the tokens of its pools,
// events and allocations of cuMemCreate, and how often it has opened memory of others. Never calls the
// driver.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/worker/accounting.hpp"
#include "daemon/worker/ipc_link.hpp"

namespace vgpu::worker {

/// Dispatcher only.
class SharedObjects {
 public:
  /// `ipc`, by which tokens are withdrawn, outlives the object.
  explicit SharedObjects(IpcLink& ipc) : ipc_(ipc) {}

  /// The token of a pool or event by the client's handle, and the end of such an offer.
  std::optional<IpcToken> offered(std::uint64_t handle) const;
  void offer(std::uint64_t handle, const IpcToken& token) { tokens_[handle] = token; }
  void withdraw(std::uint64_t handle);

  /// The same of an allocation of cuMemCreate, which lives as long as its charge.
  std::optional<IpcToken> offered(const std::shared_ptr<Charge>& allocation) const;
  void offer(const std::shared_ptr<Charge>& allocation, const IpcToken& token) {
    allocations_.emplace_back(allocation, token);
  }
  /// Withdraws those that nothing of the client's holds any more.
  void withdraw_released();

  /// Another client's memory was opened at this address, once more.
  void opened(CUdeviceptr pointer, std::uint16_t context);
  /// It is closed once less; how often it is open still. nullopt: it was not open.
  std::optional<std::uint32_t> closed(CUdeviceptr pointer);
  /// Forgets what was opened in a context, or (nullopt) in all, and calls close() as often as it was.
  void forget_opened(std::optional<std::uint16_t> context, const std::function<void(CUdeviceptr)>& close);

 private:
  struct Opened {
    std::uint32_t count = 0;
    std::uint16_t context = 0;
  };

  IpcLink& ipc_;
  std::unordered_map<std::uint64_t, IpcToken> tokens_;
  std::vector<std::pair<std::weak_ptr<Charge>, IpcToken>> allocations_;
  std::map<CUdeviceptr, Opened> opened_;
};

}  // namespace vgpu::worker
