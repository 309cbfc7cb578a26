// The header of a record in the submission ring, and the limits of records. The records themselves are
// generated from calls.tsv (vgpu/records.hpp in the build tree).
#pragma once

#include <cstddef>
#include <cstdint>

namespace vgpu {

inline constexpr std::size_t ring_unit = 64;            ///< bytes; a record begins at a multiple of this
inline constexpr std::size_t max_record_bytes = 65536;  ///< header and tail together
inline constexpr std::size_t max_inline_bytes = 4096;   ///< host data that may travel inside a record

/// The units that a record of `size` bytes takes.
constexpr std::uint64_t units_of(std::size_t size) {
  return (size + ring_unit - 1) / ring_unit;
}

/// First 16 bytes of every record. `size` counts header, fields and tail in bytes.
struct RecordHeader {
  std::uint16_t call = 0;     ///< CallId
  std::uint16_t flags = 0;    ///< RecordFlags
  std::uint32_t size = 0;     ///< bytes, without padding to the unit
  std::uint32_t reply = 0;    ///< ReplyRef; 0 = nobody waits
  std::uint16_t context = 0;  ///< index of the caller's current context; 0 = the primary context
  std::uint16_t reserved = 0;
};
static_assert(sizeof(RecordHeader) == 16);

/// What `reply` holds: the slot in the low 8 bits, a ticket (never 0) above, so that a late reply to an
/// earlier call is told from the one that is waited for.
struct ReplyRef {
  static constexpr std::uint32_t make(std::uint32_t slot, std::uint32_t ticket) {
    return ticket << 8 | (slot & 0xFF);
  }
  static constexpr std::uint32_t slot(std::uint32_t ref) { return ref & 0xFF; }
  static constexpr std::uint32_t ticket(std::uint32_t ref) { return ref >> 8; }
};

/// Bytes of the bulk arena: an offset from its start. The client allocates it, the worker checks the bounds.
struct ArenaSpan {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

/// Where a record's image is.
enum class ImageSource : std::uint32_t {
  block = 0,  ///< in the arena block that the record names
  memfd = 1,  ///< in a memfd sent as HostRegion with the record's token
  parts = 2,  ///< in the image_part records before it, one behind the other
};

/// A kernel parameter's place in the packed parameter buffer, in bytes.
struct ParamLayout {
  std::uint16_t offset = 0;
  std::uint16_t size = 0;
};

inline constexpr std::uint32_t function_attribute_count = 16;  ///< CUfunction_attribute 0..15

/// What the worker writes at the start of the arena span of a get-function or get-kernel call; `param_count`
/// ParamLayouts follow it. A span too small for them gets param_count set and no list: ask again with more.
struct FunctionInfo {
  std::uint32_t param_count = 0;
  std::uint32_t param_bytes = 0;       ///< size of the packed parameter buffer
  std::uint32_t attributes_valid = 0;  ///< bit i: attributes[i] was reported by the driver
  std::int32_t attributes[function_attribute_count] = {};
  std::uint32_t name_bytes = 0;  ///< reserved for names of enumerated functions; 0 otherwise
};

}  // namespace vgpu
