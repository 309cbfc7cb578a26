#include "daemon/worker/ipc_link.hpp"

#include <span>
#include <utility>

#include "protocol/futex.hpp"

namespace vgpu::worker {
namespace {

// For how long a broker may be away (a restart) before a call fails.
constexpr int patience_ms = 2000;
constexpr int pause_ms = 20;

std::span<const int> list(const int& fd) {
  return fd >= 0 ? std::span(&fd, 1) : std::span<const int>();
}

}  // namespace

CUresult IpcLink::ask(IpcRequest& request, int fd, IpcAnswer& answer, UniqueFd* received) {
  if (socket_ < 0) return CUDA_ERROR_NOT_SUPPORTED;
  request.number = ++last_number_;
  if (!send_message(socket_, request, list(fd))) return CUDA_ERROR_SYSTEM_NOT_READY;
  const std::uint64_t until = now_ns() + patience_ms * 1'000'000ULL;
  while (now_ns() < until) {
    auto message = receive_message(socket_, patience_ms);
    if (!message || message->closed) return CUDA_ERROR_SYSTEM_NOT_READY;
    if (message->none) break;
    if (message->as<IpcAgain>() != nullptr) {
      offer_again();
      continue;
    }
    const auto* const said = message->as<IpcAnswer>();
    if (said == nullptr || said->number != request.number) continue;  // late, to a question given up
    answer = *said;
    if (received != nullptr && message->fds.size() == 1) *received = std::move(message->fds.front());
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_SYSTEM_NOT_READY;
}

CUresult IpcLink::offer(IpcKind kind, std::size_t device, const NativeHandle& native, UniqueFd fd,
                        IpcToken& token) {
  const auto made = make_ipc_token();
  if (!made) return CUDA_ERROR_OPERATING_SYSTEM;
  IpcRequest request;
  request.action = IpcAction::offer;
  request.kind = kind;
  request.device = static_cast<std::uint32_t>(device);
  request.token = *made;
  request.native = native;
  IpcAnswer answer;
  if (const CUresult result = ask(request, fd.get(), answer, nullptr); result != CUDA_SUCCESS) return result;
  switch (answer.result) {
    case IpcResult::done:
      break;
    case IpcResult::full:
      return CUDA_ERROR_OUT_OF_MEMORY;
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
  token = *made;
  const std::lock_guard lock(mutex_);
  offers_.emplace(token, Offer{kind, request.device, native, std::move(fd)});
  return CUDA_SUCCESS;
}

bool IpcLink::orphaned(std::uint64_t maker) {
  IpcRequest request;
  request.action = IpcAction::orphaned;
  request.maker = maker;
  IpcAnswer answer;
  return ask(request, -1, answer, nullptr) == CUDA_SUCCESS && answer.result == IpcResult::done;
}

CUresult IpcLink::resolve(IpcKind kind, const IpcToken& token, NativeHandle& native, UniqueFd& fd,
                          std::uint64_t* maker) {
  const std::uint64_t until = now_ns() + patience_ms * 1'000'000ULL;
  for (;;) {
    IpcRequest request;
    request.action = IpcAction::resolve;
    request.kind = kind;
    request.token = token;
    IpcAnswer answer;
    if (const CUresult result = ask(request, -1, answer, &fd); result != CUDA_SUCCESS) return result;
    switch (answer.result) {
      case IpcResult::done:
        native = answer.native;
        if (maker != nullptr) *maker = answer.maker;
        return CUDA_SUCCESS;
      case IpcResult::other_device:
        return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
      case IpcResult::later:
        break;
      default:
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (now_ns() > until) return CUDA_ERROR_INVALID_HANDLE;
    static const std::atomic<std::uint32_t> never{0};
    futex_wait(never, 0, pause_ms * 1'000'000ULL);
  }
}

void IpcLink::withdraw(const IpcToken& token) {
  {
    const std::lock_guard lock(mutex_);
    if (offers_.erase(token) == 0) return;
  }
  IpcRequest request;
  request.action = IpcAction::withdraw;
  request.token = token;
  // A broker that is away hears of it never; it asks again for what there is.
  static_cast<void>(try_send_message(socket_, std::as_bytes(std::span(&request, 1))));
}

void IpcLink::listen() {
  if (socket_ < 0) return;
  const auto message = receive_message(socket_, 0);
  if (message && message->as<IpcAgain>() != nullptr) offer_again();
}

void IpcLink::offer_again() {
  const std::lock_guard lock(mutex_);
  for (const auto& [token, offered] : offers_) {
    IpcRequest request;
    request.action = IpcAction::offer;
    request.kind = offered.kind;
    request.device = offered.device;
    request.token = token;
    request.native = offered.native;
    const int fd = offered.fd.get();
    if (!send_message(socket_, request, list(fd))) return;
  }
}

}  // namespace vgpu::worker
