// Which launch attributes a client may set, at a launch and at a kernel node.
#pragma once

#include <cuda.h>

namespace vgpu::worker {

/// Whether it is a plain value: others name events or memory of the caller.
bool attribute_allowed(CUlaunchAttributeID id);

}  // namespace vgpu::worker
