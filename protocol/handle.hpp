// Handles that the client mints (streams, events, modules, ...) and the worker resolves. A handle is a name,
// never a pointer: neither side follows it.
#pragma once

#include <cstdint>

namespace vgpu {

/// What a handle names. The numbers are part of the protocol.
enum class HandleKind : std::uint8_t {
  none = 0,
  context,
  stream,
  event,
  module,
  function,
  library,
  kernel,
  graph,
  graph_exec,
  graph_node,
  mem_pool,
  mem_allocation,  ///< CUmemGenericAllocationHandle
  array,
  mipmapped_array,
  texture,
  surface,
  linker,
  user_object,
  green_context,
  count
};

/// A 64-bit name: tag bit 44, kind in bits 38..42, generation in bits 26..37, index in bits 4..25, bits 0..3
/// zero. It never equals NULL, CU_STREAM_LEGACY (1) or CU_STREAM_PER_THREAD (2), and looks like a canonical,
/// aligned address to programs that store handles as pointers.
struct Handle {
  static constexpr std::uint64_t tag = std::uint64_t{1} << 44;
  static constexpr std::uint32_t max_index = (1u << 22) - 1;

  static constexpr std::uint64_t make(HandleKind kind, std::uint32_t index, std::uint32_t generation) {
    return tag | std::uint64_t{static_cast<std::uint8_t>(kind)} << 38 |
           std::uint64_t{generation & 0xFFFu} << 26 | std::uint64_t{index & max_index} << 4;
  }
  static constexpr bool is_handle(std::uint64_t value) {
    return (value & ~((std::uint64_t{1} << 43) - 1)) == tag && (value & 0xF) == 0;
  }
  static constexpr HandleKind kind(std::uint64_t value) {
    return static_cast<HandleKind>(value >> 38 & 0x1F);
  }
  static constexpr std::uint32_t generation(std::uint64_t value) {
    return static_cast<std::uint32_t>(value >> 26 & 0xFFF);
  }
  static constexpr std::uint32_t index(std::uint64_t value) {
    return static_cast<std::uint32_t>(value >> 4 & max_index);
  }
  /// True when `value` is a handle of this kind.
  static constexpr bool is(std::uint64_t value, HandleKind wanted) {
    return is_handle(value) && kind(value) == wanted;
  }
};

}  // namespace vgpu
