// Learns from the dynamic linker itself which libcuda.so.1 the processes of a program loaded: LD_DEBUG=libs
// written to files (ld.so(8)), one a process. Works for libraries opened with dlopen, and for children.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/launcher.hpp"

namespace vgpu::cli {

// A folder in which the linker's notes of a program are gathered; removed with the object.
class LibraryNotes {
 public:
  LibraryNotes();
  ~LibraryNotes();
  LibraryNotes(const LibraryNotes&) = delete;
  LibraryNotes& operator=(const LibraryNotes&) = delete;

  // What to set for the program.
  [[nodiscard]] Environment environment() const;
  // The paths of every libcuda.so.1 that was initialised in any process, each once.
  [[nodiscard]] std::vector<std::string> cuda_libraries() const;

 private:
  std::string folder_;
};

// The path of a libcuda.so.1 (or libcuda.so) that this line of LD_DEBUG=libs says was initialised; else
// empty.
[[nodiscard]] std::string_view initialised_cuda_library(std::string_view line);

}  // namespace vgpu::cli
