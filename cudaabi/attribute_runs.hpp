// What holds for the items of a batch, as CUDA's batched calls are told it: each value from one item on,
// until the next value's first.
#pragma once

#include <cstddef>

namespace cudaabi {

template <class Attribute>
struct AttributeRuns {
  const Attribute* values;
  const std::size_t* first_of;  ///< the item from which on a value holds
  std::size_t count;

  /// True when each of `items` items has a value, and each value an item.
  [[nodiscard]] bool cover(std::size_t items) const {
    if (values == nullptr || first_of == nullptr || count == 0 || count > items || first_of[0] != 0)
      return false;
    for (std::size_t i = 1; i < count; ++i) {
      if (first_of[i] <= first_of[i - 1] || first_of[i] >= items) return false;
    }
    return true;
  }
};

}  // namespace cudaabi
