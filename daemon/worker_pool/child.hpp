// What a process that vgpud starts does first, between fork and exec. Starts nothing.
#pragma once

namespace vgpu::daemon {

/// Gives up what is the broker's alone: its capabilities, signal mask and terminal. Only async-signal-safe
/// calls.
void leave_broker();

}  // namespace vgpu::daemon
