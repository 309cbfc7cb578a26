// From a record's call id to the function that runs it. The functions are generated from the call table.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace vgpu::worker {

class Session;
class ReplyBuffer;

using Runner = CUresult (*)(Session& session, std::span<const std::byte> bytes, ReplyBuffer& out);

/// The function for a call id, or nullptr when no record of that id is ever sent.
Runner find_runner(std::uint16_t call);

}  // namespace vgpu::worker
