// The reply's payload while a record is being run. Sends nothing.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>

#include "protocol/channel_layout.hpp"

namespace vgpu::worker {

class ReplyBuffer {
 public:
  template <class Reply>
  void put(const Reply& reply) {
    if constexpr (!std::is_empty_v<Reply>) {
      static_assert(sizeof(Reply) <= reply_payload_bytes);
      std::memcpy(bytes_, &reply, sizeof reply);
      size_ = sizeof reply;
    }
  }
  std::span<const std::byte> bytes() const { return {bytes_, size_}; }
  void clear() { size_ = 0; }

 private:
  std::byte bytes_[reply_payload_bytes];
  std::size_t size_ = 0;
};

}  // namespace vgpu::worker
