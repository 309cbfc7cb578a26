// CUDA arrays and mipmapped arrays: images in device memory that programs reach by copies, textures and
// surfaces only.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "softgpu/driver/context.hpp"
#include "softgpu/texture/texture.hpp"

namespace softgpu {

/// Memory of an array, given back with the last reference.
class ArrayMemory {
 public:
  ArrayMemory(std::uint64_t address, const Context* context) : address_(address), context_(context) {}
  ~ArrayMemory();
  ArrayMemory(const ArrayMemory&) = delete;
  ArrayMemory& operator=(const ArrayMemory&) = delete;
  std::uint64_t address() const { return address_; }

 private:
  std::uint64_t address_;
  const Context* context_;
};

/// Behind CUarray. Immutable.
struct Array {
  const Context* context = nullptr;
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};
  Image image;
  std::shared_ptr<const ArrayMemory> memory;
  bool level = false;  ///< belongs to a mipmapped array, with which it is destroyed

  CUarray handle() const { return reinterpret_cast<CUarray>(const_cast<Array*>(this)); }
};

/// Behind CUmipmappedArray. Immutable.
struct MipmappedArray {
  const Context* context = nullptr;
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};
  std::vector<std::shared_ptr<Array>> levels;

  CUmipmappedArray handle() const {
    return reinterpret_cast<CUmipmappedArray>(const_cast<MipmappedArray*>(this));
  }
};

/// The channel type of a format; nothing for compressed and planar ones, which this device does not have.
std::optional<Channel> channel_of(CUarray_format format);

/// Makes an array, or `levels` of them, each half as large as the one before.
CUresult make_array(Context& context, const CUDA_ARRAY3D_DESCRIPTOR& descriptor,
                    std::shared_ptr<Array>& made);
CUresult make_mipmapped_array(Context& context, const CUDA_ARRAY3D_DESCRIPTOR& descriptor, unsigned levels,
                              std::shared_ptr<MipmappedArray>& made);
/// Forgets all arrays of a context that ends.
void drop_arrays(const Context& context);

}  // namespace softgpu
