// Finds vgpud's own files from where this binary stands: a build tree or an installation. Changes nothing.
#pragma once

#include <string>
#include <tl/expected.hpp>

namespace vgpu::cli {

// The folder with the client library, libcuda.so.1, for LD_LIBRARY_PATH. The error is a sentence.
[[nodiscard]] tl::expected<std::string, std::string> client_library_folder();

// The folder with libraries of our own that take the place of NVIDIA's matrix libraries on the software GPU;
// empty where they are not installed.
[[nodiscard]] std::string matrix_library_folder();

// The vgpud program, for --standalone. The error is a sentence.
[[nodiscard]] tl::expected<std::string, std::string> broker_program();

}  // namespace vgpu::cli
