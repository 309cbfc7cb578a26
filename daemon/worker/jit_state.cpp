#include "daemon/worker/jit_state.hpp"

#include <algorithm>
#include <cstring>

namespace vgpu::worker {
namespace {

// Options whose value is a plain number. Source: cuda.h, CUjit_option.
bool is_number(std::uint32_t option) {
  switch (option) {
    case CU_JIT_MAX_REGISTERS:
    case CU_JIT_THREADS_PER_BLOCK:
    case CU_JIT_WALL_TIME:
    case CU_JIT_OPTIMIZATION_LEVEL:
    case CU_JIT_TARGET_FROM_CUCONTEXT:
    case CU_JIT_TARGET:
    case CU_JIT_FALLBACK_STRATEGY:
    case CU_JIT_GENERATE_DEBUG_INFO:
    case CU_JIT_LOG_VERBOSE:
    case CU_JIT_GENERATE_LINE_INFO:
    case CU_JIT_CACHE_MODE:
    case CU_JIT_NEW_SM3X_OPT:
    case CU_JIT_FAST_COMPILE:
    case CU_JIT_GLOBAL_SYMBOL_COUNT:
    case CU_JIT_LTO:
    case CU_JIT_FTZ:
    case CU_JIT_PREC_DIV:
    case CU_JIT_PREC_SQRT:
    case CU_JIT_FMA:
    case CU_JIT_REFERENCED_KERNEL_COUNT:
    case CU_JIT_REFERENCED_VARIABLE_COUNT:
    case CU_JIT_OPTIMIZE_UNUSED_DEVICE_VARIABLES:
    case CU_JIT_POSITION_INDEPENDENT_CODE:
    case CU_JIT_MIN_CTA_PER_SM:
    case CU_JIT_MAX_THREADS_PER_BLOCK:
    case CU_JIT_OVERRIDE_DIRECTIVE_VALUES:
    case CU_JIT_SPLIT_COMPILE:
      return true;
    default:
      return false;
  }
}

std::size_t text_bytes(const std::vector<char>& log) {
  return static_cast<std::size_t>(std::find(log.begin(), log.end(), '\0') - log.begin());
}

}  // namespace

void JitState::add(CUjit_option option, std::uint64_t value) {
  options_.push_back(option);
  values_.push_back(
      reinterpret_cast<void*>(value));  // NOLINT(performance-no-int-to-ptr): as the driver wants
}

void JitState::add_log(CUjit_option buffer, CUjit_option size, std::vector<char>& log, std::uint64_t bytes) {
  log.assign(std::min<std::uint64_t>(bytes, max_jit_log_bytes), '\0');
  if (log.empty()) return;
  add(buffer, reinterpret_cast<std::uint64_t>(log.data()));
  add(size, log.size());
}

CUresult JitState::read(std::uint32_t count, std::span<const std::byte>& tail) {
  if (count > max_jit_options || tail.size() < count * sizeof(JitOption)) return CUDA_ERROR_INVALID_VALUE;
  for (std::uint32_t i = 0; i < count; ++i) {
    JitOption option;
    std::memcpy(&option, tail.data(), sizeof option);
    tail = tail.subspan(sizeof option);
    if (option.option == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES) {
      if (!info_.empty()) return CUDA_ERROR_INVALID_VALUE;
      add_log(CU_JIT_INFO_LOG_BUFFER, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, info_, option.value);
    } else if (option.option == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) {
      if (!error_.empty()) return CUDA_ERROR_INVALID_VALUE;
      add_log(CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, error_, option.value);
    } else if (is_number(option.option)) {
      add(static_cast<CUjit_option>(option.option), option.value & 0xFFFFFFFFU);
    } else {
      return CUDA_ERROR_NOT_SUPPORTED;
    }
  }
  return CUDA_SUCCESS;
}

void JitState::write_outputs(std::span<std::byte> out) const {
  JitOutputs outputs;
  if (out.size() < sizeof outputs) return;
  for (std::size_t i = 0; i < options_.size(); ++i) {
    if (options_[i] == CU_JIT_THREADS_PER_BLOCK) {
      outputs.threads_per_block = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(values_[i]));
    } else if (options_[i] == CU_JIT_WALL_TIME) {
      std::memcpy(&outputs.wall_time, &values_[i], sizeof outputs.wall_time);
    }
  }
  const std::size_t room = out.size() - sizeof outputs;
  const std::size_t info = std::min(text_bytes(info_), room);
  const std::size_t error = std::min(text_bytes(error_), room - info);
  outputs.info_bytes = static_cast<std::uint32_t>(info);
  outputs.error_bytes = static_cast<std::uint32_t>(error);
  std::memcpy(out.data(), &outputs, sizeof outputs);
  if (info != 0) std::memcpy(out.data() + sizeof outputs, info_.data(), info);
  if (error != 0) std::memcpy(out.data() + sizeof outputs + info, error_.data(), error);
}

}  // namespace vgpu::worker
