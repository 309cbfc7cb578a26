// The worker's side of sharing with other clients' workers: what it has offered under which token, and its
// questions to the broker (protocol/ipc.hpp). A question waits for the broker's answer, some tens of
// microseconds, and never for a client.
#pragma once

#include <cuda.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

#include "protocol/ipc.hpp"
#include "protocol/message_socket.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::worker {

/// The driver's own handle. Never shown to a client.
using NativeHandle = std::array<std::byte, ipc_handle_bytes>;

class IpcLink {
 public:
  /// `broker_socket` outlives the object; -1: there is no broker, nothing can be shared.
  explicit IpcLink(int broker_socket) : socket_(broker_socket) {}

  /// Makes a token for `native` (and `fd`, if has_descriptor()), which lies on the client's device `device`.
  /// Dispatcher only, as resolve() and listen().
  CUresult offer(IpcKind kind, std::size_t device, const NativeHandle& native, UniqueFd fd, IpcToken& token);
  /// What another client's worker offered under `token`; `maker`, if not null: that session.
  CUresult resolve(IpcKind kind, const IpcToken& token, NativeHandle& native, UniqueFd& fd,
                   std::uint64_t* maker = nullptr);
  /// Whether that session has ended and nobody else who lives has opened events of it; false when in doubt.
  bool orphaned(std::uint64_t maker);
  /// Looks whether the broker wants something. Cheap; called now and then.
  void listen();
  /// The token names nothing any more. From any thread.
  void withdraw(const IpcToken& token);

 private:
  struct Offer {
    IpcKind kind;
    std::uint32_t device;
    NativeHandle native;
    UniqueFd fd;
  };

  CUresult ask(IpcRequest& request, int fd, IpcAnswer& answer, UniqueFd* received);
  void offer_again();

  const int socket_;
  std::uint64_t last_number_ = 0;
  std::mutex mutex_;
  std::map<IpcToken, Offer> offers_;
};

}  // namespace vgpu::worker
