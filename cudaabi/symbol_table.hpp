// The list of all driver functions with their versions and addresses in this library. Generated
// (generate.py).
#pragma once

#include <cstdint>
#include <span>

namespace cudaabi {

/// Which default stream a variant of a function means by stream 0.
enum class DefaultStream : std::uint8_t { legacy, per_thread };

/// One exported function.
struct Symbol {
  const char* name;      ///< as asked for: "cuMemAlloc"
  int version;           ///< CUDA version that introduced this ABI: 3020
  const char* exported;  ///< as exported: "cuMemAlloc_v2"
  DefaultStream stream;  ///< per_thread for the _ptsz and _ptds variants
  void* address;         ///< in this library; a weak NOT_SUPPORTED stub where nothing stronger is linked
};

/// All of them, sorted by name, then version.
std::span<const Symbol> symbol_table();

/// The distinct exported names, in the order in which note_unsupported() numbers them.
std::span<const char* const> symbol_names();

}  // namespace cudaabi
