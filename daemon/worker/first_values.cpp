#include "daemon/worker/first_values.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "daemon/worker/image_variables.hpp"

namespace vgpu::worker {
namespace {

constexpr std::size_t part_bytes = std::size_t{1} << 20;  // of a variable at a time
constexpr std::size_t word_bytes = sizeof(CUdeviceptr);

/// A library that is unloaded at the end.
class LoadedCopy {
 public:
  explicit LoadedCopy(const DriverTable& driver) : driver_(driver) {}
  ~LoadedCopy() {
    if (library_ != nullptr) driver_.cuLibraryUnload(library_);
  }
  LoadedCopy(const LoadedCopy&) = delete;
  LoadedCopy& operator=(const LoadedCopy&) = delete;

  CUresult load(std::span<const std::byte> image) { return load_preserved(driver_, library_, image); }
  CUlibrary get() const { return library_; }

 private:
  const DriverTable& driver_;
  CUlibrary library_ = nullptr;
};

/// Where a variable lies in the library and in both copies.
struct PlacedVariable {
  CUdeviceptr own = 0;
  std::array<CUdeviceptr, first_value_copies> copies{};
  std::size_t bytes = 0;
  bool managed = false;
};

class Restorer {
 public:
  explicit Restorer(const DriverTable& driver) : driver_(driver) {}

  CUresult find(const std::vector<ImageVariable>& names, CUlibrary library, const LoadedCopy& first,
                const LoadedCopy& second) {
    for (const ImageVariable& name : names) {
      PlacedVariable found;
      found.managed = name.managed;
      const CUresult result =
          driver_.cuLibraryGetGlobal(&found.own, &found.bytes, library, name.name.c_str());
      // One that no kernel uses may have been left out, and another of the fatbin's images chosen.
      if (result == CUDA_ERROR_NOT_FOUND || (result != CUDA_SUCCESS && name.managed)) continue;
      if (result != CUDA_SUCCESS) return result;
      const std::array<CUlibrary, first_value_copies> copies = {first.get(), second.get()};
      for (std::size_t i = 0; i < copies.size(); ++i) {
        std::size_t bytes = 0;
        const CUresult same =
            driver_.cuLibraryGetGlobal(&found.copies[i], &bytes, copies[i], name.name.c_str());
        if (same != CUDA_SUCCESS) return same;
        if (bytes != found.bytes) return CUDA_ERROR_INVALID_IMAGE;
      }
      variables_.push_back(found);
    }
    return CUDA_SUCCESS;
  }

  CUresult restore() {
    for (const PlacedVariable& variable : variables_) {
      if (variable.managed) continue;
      for (std::size_t at = 0; at < variable.bytes;) {
        // Parts begin where words do.
        const std::size_t size =
            std::min<std::size_t>(part_bytes - (variable.own + at) % word_bytes, variable.bytes - at);
        if (const CUresult result = restore(variable, at, size); result != CUDA_SUCCESS) return result;
        at += size;
      }
    }
    return driver_.cuCtxSynchronize();
  }

 private:
  CUresult restore(const PlacedVariable& variable, std::size_t at, std::size_t size) {
    CUresult result = read(first_, variable.copies[0] + at, size);
    if (result == CUDA_SUCCESS) result = read(second_, variable.copies[1] + at, size);
    if (result != CUDA_SUCCESS) return result;
    if (std::memcmp(first_.data(), second_.data(), size) != 0) {
      if (result = read(own_, variable.own + at, size); result != CUDA_SUCCESS) return result;
      for (std::size_t i = (word_bytes - (variable.own + at) % word_bytes) % word_bytes;
           i + word_bytes <= size; i += word_bytes) {
        if (std::memcmp(&first_[i], &second_[i], word_bytes) == 0) continue;
        CUdeviceptr address = 0;
        std::memcpy(&address, &first_[i], word_bytes);
        if (const auto known = own_address(address)) {
          std::memcpy(&first_[i], &*known, word_bytes);
        } else {
          std::memcpy(&first_[i], &own_[i], word_bytes);
        }
      }
    }
    return driver_.cuMemcpyHtoD_v2(variable.own + at, first_.data(), size);
  }

  CUresult read(std::vector<std::byte>& out, CUdeviceptr from, std::size_t size) {
    out.resize(size);
    return driver_.cuMemcpyDtoH_v2(out.data(), from, size);
  }

  /// The library's own address for one in the first copy.
  std::optional<CUdeviceptr> own_address(CUdeviceptr address) const {
    // The end of one variable may be the beginning of another, which is meant then.
    for (const std::size_t end : {std::size_t{0}, std::size_t{1}}) {
      for (const PlacedVariable& variable : variables_) {
        const CUdeviceptr offset = address - variable.copies[0];
        if (offset < variable.bytes + end) return variable.own + offset;
      }
    }
    return std::nullopt;
  }

  const DriverTable& driver_;
  std::vector<PlacedVariable> variables_;
  std::vector<std::byte> first_, second_, own_;
};

}  // namespace

CUresult load_preserved(const DriverTable& driver, CUlibrary& library, std::span<const std::byte> image,
                        unsigned option_count, CUjit_option* options, void** values) {
  CUlibraryOption preserved = CU_LIBRARY_BINARY_IS_PRESERVED;
  void* yes = reinterpret_cast<void*>(std::uintptr_t{1});  // NOLINT(performance-no-int-to-ptr)
  return driver.cuLibraryLoadData(&library, image.data(), options, values, option_count, &preserved, &yes, 1);
}

CUresult restore_first_values(const DriverTable& driver, CUlibrary library, std::span<const std::byte> image,
                              std::uint32_t capability) {
  if (driver.cuLibraryLoadData == nullptr || driver.cuLibraryUnload == nullptr ||
      driver.cuLibraryGetGlobal == nullptr || driver.cuMemcpyDtoH_v2 == nullptr ||
      driver.cuMemcpyHtoD_v2 == nullptr || driver.cuCtxSynchronize == nullptr) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  const auto names = image_variables(image, capability);
  if (!names) return CUDA_ERROR_NOT_SUPPORTED;
  const auto changeable = [](const ImageVariable& name) { return !name.managed; };
  if (std::none_of(names->begin(), names->end(), changeable)) return CUDA_SUCCESS;
  LoadedCopy first(driver);
  LoadedCopy second(driver);
  CUresult result = first.load(image);
  if (result == CUDA_SUCCESS) result = second.load(image);
  if (result != CUDA_SUCCESS) return result;
  Restorer restorer(driver);
  result = restorer.find(*names, library, first, second);
  return result == CUDA_SUCCESS ? restorer.restore() : result;
}

}  // namespace vgpu::worker
