#include "cudaabi/proc_address.hpp"

#include <algorithm>
#include <span>
#include <string_view>

#include "cudaabi/symbol_table.hpp"

// cuda.h maps these names to their newest versions; here each version is itself.
#undef cuGetProcAddress
#undef cuGetProcAddress_v2

namespace cudaabi {

CUresult get_proc_address(const char* name, void** function, int version, cuuint64_t flags,
                          CUdriverProcAddressQueryResult* status) {
  constexpr cuuint64_t known_flags =
      CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
  if (name == nullptr || function == nullptr || (flags & ~known_flags) != 0) return CUDA_ERROR_INVALID_VALUE;
  *function = nullptr;

  const auto table = symbol_table();
  const std::string_view wanted(name);
  const auto name_of = [](const Symbol& symbol) { return std::string_view(symbol.name); };
  const std::span range(std::ranges::lower_bound(table, wanted, {}, name_of),
                        std::ranges::upper_bound(table, wanted, {}, name_of));
  const bool per_thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;

  // Rows of a name are sorted by version; a per-thread variant wins over a plain one only when it was asked
  // for.
  const Symbol* best = nullptr;
  for (const Symbol& symbol : range) {
    if (symbol.version > version) continue;
    if (symbol.stream == DefaultStream::per_thread && !per_thread) continue;
    const bool better = best == nullptr || symbol.stream > best->stream ||
                        (symbol.stream == best->stream && symbol.version >= best->version);
    if (better) best = &symbol;
  }
  if (status != nullptr) {
    *status = best != nullptr ? CU_GET_PROC_ADDRESS_SUCCESS
              : range.empty() ? CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND
                              : CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
  }
  if (best != nullptr) *function = best->address;
  return CUDA_SUCCESS;
}

}  // namespace cudaabi

extern "C" {

__attribute__((visibility("default"))) CUresult cuGetProcAddress_v2(
    const char* symbol, void** pfn, int cudaVersion, cuuint64_t flags,
    CUdriverProcAddressQueryResult* symbolStatus) {
  return cudaabi::get_proc_address(symbol, pfn, cudaVersion, flags, symbolStatus);
}

__attribute__((visibility("default"))) CUresult cuGetProcAddress_v2_ptsz(
    const char* symbol, void** pfn, int cudaVersion, cuuint64_t flags,
    CUdriverProcAddressQueryResult* symbolStatus) {
  return cudaabi::get_proc_address(symbol, pfn, cudaVersion,
                                   flags | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, symbolStatus);
}

// The first ABI of the function, CUDA 11.3: no status argument, so that its return value tells what was not
// found.
__attribute__((visibility("default"))) CUresult cuGetProcAddress(const char* symbol, void** pfn,
                                                                 int cudaVersion, cuuint64_t flags) {
  const CUresult result = cudaabi::get_proc_address(symbol, pfn, cudaVersion, flags, nullptr);
  return result == CUDA_SUCCESS && *pfn == nullptr ? CUDA_ERROR_NOT_FOUND : result;
}
}
