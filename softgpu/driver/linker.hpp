// A linker in progress (CUlinkState).
#pragma once

#include <string>

#include "softgpu/driver/jit_log.hpp"

namespace softgpu {

struct Linker {
  JitLog log;
  std::string ptx;  ///< all inputs so far; what cuLinkComplete hands out
};

}  // namespace softgpu
