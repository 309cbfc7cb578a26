#include "daemon/worker/stream_mark.hpp"

#include <new>

namespace vgpu::worker {

StreamMark::~StreamMark() {
  if (word_ != nullptr && driver_.cuMemFreeHost != nullptr) driver_.cuMemFreeHost(word_);
}

bool StreamMark::make_word() {
  if (driver_.cuStreamWriteValue32_v2 == nullptr || driver_.cuMemHostAlloc == nullptr ||
      driver_.cuMemHostGetDevicePointer_v2 == nullptr) {
    return false;
  }
  void* memory = nullptr;
  if (driver_.cuMemHostAlloc(&memory, sizeof *word_, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP) !=
      CUDA_SUCCESS) {
    return false;
  }
  word_ = new (memory) std::atomic<std::uint32_t>(0);
  return driver_.cuMemHostGetDevicePointer_v2(&address_, memory, 0) == CUDA_SUCCESS;
}

bool StreamMark::put(CUstream stream) {
  if (refused_) return false;
  if (word_ == nullptr && !make_word()) {
    refused_ = true;
    return false;
  }
  if (++value_ == 0) ++value_;
  // With the flags' default the write comes after all that the work before it has written.
  if (driver_.cuStreamWriteValue32_v2(stream, address_, value_, CU_STREAM_WRITE_VALUE_DEFAULT) ==
      CUDA_SUCCESS)
    return true;
  refused_ = true;
  return false;
}

}  // namespace vgpu::worker
