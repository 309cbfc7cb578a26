#pragma once
// Lets Boost.Interprocess map a descriptor that was received rather than opened by name. Never owns it.
#include <boost/interprocess/mapped_region.hpp>

namespace vgpu {

/// A memory-mappable of Boost.Interprocess over `fd`, which must stay open while a mapped_region is made from
/// it.
class ReceivedFd {
 public:
  explicit ReceivedFd(int fd) : fd_(fd) {}
  boost::interprocess::mapping_handle_t get_mapping_handle() const {
    return boost::interprocess::ipcdetail::mapping_handle_from_file_handle(fd_);
  }

 private:
  int fd_;
};

}  // namespace vgpu
