// What the rest of the driver must know of memory that was opened from another process.
#pragma once

namespace softgpu {

class Context;

/// The context was reset: what was open in it has been released.
void forget_opened_memory(const Context& context);

}  // namespace softgpu
