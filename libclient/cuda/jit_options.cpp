#include "libclient/cuda/jit_options.hpp"

#include <algorithm>
#include <cstring>

#include "cudaabi/unsupported.hpp"
#include "libclient/cuda/stub_runtime.hpp"

namespace vgpu::client {
namespace {

// Values are numbers in a pointer's place, of which the driver reads 32 bits.
std::uint32_t number(const void* value) {
  return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(value));
}

// Arrays of names and addresses in the program's memory. All are deprecated, and none is needed for linking
// by name.
bool names_memory(int option) {
  switch (option) {
    case CU_JIT_GLOBAL_SYMBOL_NAMES:
    case CU_JIT_GLOBAL_SYMBOL_ADDRESSES:
    case CU_JIT_REFERENCED_KERNEL_NAMES:
    case CU_JIT_REFERENCED_VARIABLE_NAMES:
      return true;
    default:
      return false;
  }
}

std::size_t room_of(const void* buffer, const void* size) {
  return buffer != nullptr ? std::min<std::size_t>(number(size), max_jit_log_bytes) : 0;
}

// Writes a log with its NUL into a buffer of `room` bytes; the bytes written.
std::size_t put(void* buffer, std::size_t room, std::span<const std::byte> text) {
  if (room == 0) return 0;
  const std::size_t bytes = std::min(text.size(), room - 1);
  std::memcpy(buffer, text.data(), bytes);
  static_cast<char*>(buffer)[bytes] = '\0';
  return bytes;
}

}  // namespace

JitOptions::JitOptions(unsigned count, CUjit_option* options, void** values)
    : count_(count), options_(options), values_(values) {
  if (count == 0) return;
  if (options == nullptr || values == nullptr || count > max_jit_options) {
    problem_ = CUDA_ERROR_INVALID_VALUE;
    count_ = 0;
    return;
  }
  const void* info = nullptr;
  const void* error = nullptr;
  const void* info_size = nullptr;
  const void* error_size = nullptr;
  for (unsigned i = 0; i < count; ++i) {
    const int option = static_cast<int>(options[i]);
    if (names_memory(option)) {
      problem_ = static_cast<CUresult>(cudaabi::note_unsupported("JIT options that name host memory"));
      return;
    }
    switch (option) {
      case CU_JIT_INFO_LOG_BUFFER:
        info = values[i];
        break;
      case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
        info_size = values[i];
        break;
      case CU_JIT_ERROR_LOG_BUFFER:
        error = values[i];
        break;
      case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
        error_size = values[i];
        break;
      default:
        wire_.push_back({static_cast<std::uint32_t>(option), 0, number(values[i])});
        break;
    }
  }
  info_room_ = room_of(info, info_size);
  error_room_ = room_of(error, error_size);
  if (info_room_ != 0) wire_.push_back({CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, 0, info_room_});
  if (error_room_ != 0) wire_.push_back({CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, 0, error_room_});
}

void JitOptions::write_back(std::span<const std::byte> data) const {
  JitOutputs outputs;
  if (data.size() < sizeof outputs) return;
  std::memcpy(&outputs, data.data(), sizeof outputs);
  data = data.subspan(sizeof outputs);
  const std::span info = data.first(std::min<std::size_t>(outputs.info_bytes, data.size()));
  data = data.subspan(info.size());
  const std::span error = data.first(std::min<std::size_t>(outputs.error_bytes, data.size()));
  std::size_t info_written = 0;
  std::size_t error_written = 0;
  for (unsigned i = 0; i < count_; ++i) {
    if (options_[i] == CU_JIT_INFO_LOG_BUFFER) info_written = put(values_[i], info_room_, info);
    if (options_[i] == CU_JIT_ERROR_LOG_BUFFER) error_written = put(values_[i], error_room_, error);
  }
  for (unsigned i = 0; i < count_; ++i) {
    switch (static_cast<int>(options_[i])) {
      case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
        values_[i] = from_bits<void*>(info_written);
        break;
      case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
        values_[i] = from_bits<void*>(error_written);
        break;
      case CU_JIT_THREADS_PER_BLOCK:
        values_[i] = from_bits<void*>(outputs.threads_per_block);
        break;
      case CU_JIT_WALL_TIME:
        std::memcpy(&values_[i], &outputs.wall_time, sizeof outputs.wall_time);
        break;
      default:
        break;
    }
  }
}

}  // namespace vgpu::client
