// Where the records that load an image say where it is. Knows nothing of how it gets there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vgpu/records.hpp"

namespace vgpu::stub_guest {

struct ImagePlaces {
  CallId call;
  std::size_t record_bytes, source, token, image;
};

template <class Record>
constexpr ImagePlaces image_places() {
  return {Record::call, sizeof(Record), offsetof(Record, source), offsetof(Record, token),
          offsetof(Record, image)};
}

inline constexpr ImagePlaces image_calls[] = {
    image_places<record::cuModuleLoadData>(), image_places<record::cuLibraryLoadData>(),
    image_places<record::jit_module>(), image_places<record::jit_library>(),
    image_places<record::cuLinkAddData_v2>()};

}  // namespace vgpu::stub_guest
