// The call table at run time: what each CallId is called and how it is answered. Generated from calls.tsv.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "vgpu/call_ids.hpp"

namespace vgpu {

/// How a call is answered.
enum class CallKind : std::uint8_t {
  local,        ///< in the client
  async,        ///< sent to the worker; nobody waits
  wait,         ///< sent to the worker; the caller waits for the reply
  unsupported,  ///< CUDA_ERROR_NOT_SUPPORTED
};

/// One row of the table.
struct CallInfo {
  std::string_view name;  ///< exported symbol without _ptsz or _ptds, or the protocol's own name
  CallKind kind;
  bool synchronises;  ///< the reply also reports earlier asynchronous errors
};

/// All rows, indexed by CallId.
std::span<const CallInfo> call_table();

/// The row of `call`, or nullptr when there is none.
const CallInfo* find_call(std::uint16_t call);

}  // namespace vgpu
