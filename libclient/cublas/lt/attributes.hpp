// Attributes of cublasLt's descriptors: which bytes of a state each one is, set and read with cublasLt's
// rules for sizes. Never: knows what an attribute means.
#pragma once

#include <cublas_api.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <span>

namespace vgpu::cublas {

/// One attribute: a field of a state, or a value that cannot be changed here, all of whose bytes are `fixed`.
struct Attribute {
  static constexpr std::size_t none = ~std::size_t{0};
  int id;
  std::size_t bytes, offset = none;
  unsigned char fixed = 0;
};

inline const Attribute* find_attribute(std::span<const Attribute> known, int id) {
  const auto at = std::find_if(known.begin(), known.end(), [id](const Attribute& x) { return x.id == id; });
  return at != known.end() ? &*at : nullptr;
}

/// Copies a value out as cublasLt's getters do: with no room it only tells how much there is.
inline cublasStatus_t give_value(const void* value, std::size_t bytes, void* out, std::size_t room,
                                 std::size_t* written) {
  if (room == 0 ? written == nullptr : (out == nullptr || room != bytes)) return CUBLAS_STATUS_INVALID_VALUE;
  if (room != 0) std::memcpy(out, value, bytes);
  if (written != nullptr) *written = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

/// Sets the attribute in a copy of the state. A value that cannot be changed is NOT_SUPPORTED unless it is
/// the one that counts anyway.
template <class State>
cublasStatus_t set_attribute(State& state, std::span<const Attribute> known, int id, const void* value,
                             std::size_t bytes) {
  const Attribute* attribute = find_attribute(known, id);
  if (attribute == nullptr || value == nullptr || bytes != attribute->bytes)
    return CUBLAS_STATUS_INVALID_VALUE;
  const auto* from = static_cast<const unsigned char*>(value);
  if (attribute->offset == Attribute::none) {
    const bool same = std::all_of(from, from + bytes, [&](unsigned char x) { return x == attribute->fixed; });
    return same ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }
  std::memcpy(reinterpret_cast<unsigned char*>(&state) + attribute->offset, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

template <class State>
cublasStatus_t get_attribute(const State& state, std::span<const Attribute> known, int id, void* out,
                             std::size_t room, std::size_t* written) {
  const Attribute* attribute = find_attribute(known, id);
  if (attribute == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  unsigned char value[8];
  if (attribute->offset == Attribute::none) {
    std::fill(std::begin(value), std::end(value), attribute->fixed);
  } else {
    std::memcpy(value, reinterpret_cast<const unsigned char*>(&state) + attribute->offset, attribute->bytes);
  }
  return give_value(value, attribute->bytes, out, room, written);
}

}  // namespace vgpu::cublas
