// The JIT options of a program: those about logs are obeyed, the others steer a compiler that is not there.
#pragma once

#include <cuda.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

namespace softgpu {

/// The options of a load or of a linker; their arrays must outlive it.
class JitLog {
 public:
  JitLog(unsigned count, const CUjit_option* options, void** values) {
    for (unsigned i = 0; i < count && options != nullptr && values != nullptr; ++i) {
      switch (options[i]) {
        case CU_JIT_ERROR_LOG_BUFFER:
          error_ = static_cast<char*>(values[i]);
          break;
        case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
          error_size_ = &values[i];
          break;
        case CU_JIT_INFO_LOG_BUFFER:
          info_ = static_cast<char*>(values[i]);
          break;
        case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
          info_size_ = &values[i];
          break;
        default:
          break;
      }
    }
  }

  /// Writes the logs and, as the driver API says, their sizes over the buffer sizes.
  void write(const std::string& error) const {
    put(error_, error_size_, error);
    put(info_, info_size_, "");
  }

 private:
  // The option's value is a number in a pointer's place.
  static void put(char* buffer, void** size, const std::string& text) {
    if (buffer == nullptr || size == nullptr) return;
    const std::size_t room = reinterpret_cast<std::uintptr_t>(*size) & 0xffffffffU;
    if (room == 0) return;
    const std::size_t bytes = std::min(room - 1, text.size());
    std::memcpy(buffer, text.data(), bytes);
    buffer[bytes] = '\0';
    *size = reinterpret_cast<void*>(bytes);  // NOLINT(performance-no-int-to-ptr)
  }

  char* error_ = nullptr;
  char* info_ = nullptr;
  void** error_size_ = nullptr;
  void** info_size_ = nullptr;
};

}  // namespace softgpu
