#include "daemon/worker/client_errors.hpp"

namespace vgpu::worker {

bool ClientErrors::is_sticky(CUresult result) {
  switch (result) {
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_EXTERNAL_DEVICE:
      return true;
    default:
      return false;
  }
}

void ClientErrors::note(CUresult result) {
  if (result == CUDA_SUCCESS || result == CUDA_ERROR_NOT_READY) return;
  page_.errors.fetch_add(1, std::memory_order_relaxed);
  if (!is_sticky(result)) return;
  int none = 0;
  if (sticky_.compare_exchange_strong(none, static_cast<int>(result))) {
    page_.sticky_error.store(static_cast<std::uint64_t>(result), std::memory_order_relaxed);
    channel_.control().sticky_error.store(static_cast<std::uint32_t>(result), std::memory_order_release);
  }
}

void ClientErrors::note_unwaited(CUresult result) {
  note(result);
  if (result == CUDA_SUCCESS || result == CUDA_ERROR_NOT_READY || is_sticky(result)) return;
  int none = 0;
  if (async_.compare_exchange_strong(none, static_cast<int>(result))) {
    channel_.control().async_error.store(static_cast<std::uint32_t>(result), std::memory_order_release);
  }
}

CUresult ClientErrors::answer(CUresult result, bool synchronises) {
  if (result != CUDA_SUCCESS) return result;
  if (const int sticky = sticky_.load(std::memory_order_acquire); sticky != 0)
    return static_cast<CUresult>(sticky);
  if (!synchronises) return result;
  const int async = async_.exchange(0, std::memory_order_acq_rel);
  if (async == 0) return result;
  channel_.control().async_error.store(0, std::memory_order_release);
  return static_cast<CUresult>(async);
}

}  // namespace vgpu::worker
