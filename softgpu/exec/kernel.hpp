// How the executor gets at a kernel's code; implemented by engine.cpp.
#pragma once

#include "softgpu/engine.hpp"
#include "softgpu/exec/heap.hpp"
#include "softgpu/exec/machine.hpp"

namespace softgpu::exec {

/// The kernel's register code, decoded at the first call. Thread-safe.
tl::expected<const KernelCode*, LoadError> kernel_code(const Kernel& kernel);
DeviceHeap& kernel_heap(const Kernel& kernel);

}  // namespace softgpu::exec
