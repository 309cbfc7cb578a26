#include "cli/loaded_libraries.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>

namespace vgpu::cli {
namespace {

namespace fs = std::filesystem;

}  // namespace

std::string_view initialised_cuda_library(std::string_view line) {
  static constexpr std::string_view marker = "calling init: ";
  const auto at = line.find(marker);
  if (at == std::string_view::npos) return {};
  const std::string_view path = line.substr(at + marker.size());
  const std::string_view name = path.substr(path.rfind('/') + 1);
  return name == "libcuda.so.1" || name == "libcuda.so" ? path : std::string_view();
}

LibraryNotes::LibraryNotes() {
  std::error_code ignored;
  std::string name = (fs::temp_directory_path(ignored) / "vgpud-verify-XXXXXX").string();
  if (mkdtemp(name.data()) != nullptr) folder_ = name;
}

LibraryNotes::~LibraryNotes() {
  std::error_code ignored;
  if (!folder_.empty()) fs::remove_all(folder_, ignored);
}

Environment LibraryNotes::environment() const {
  if (folder_.empty()) return {};
  return {{"LD_DEBUG", "libs"}, {"LD_DEBUG_OUTPUT", folder_ + "/libs"}};
}

std::vector<std::string> LibraryNotes::cuda_libraries() const {
  std::vector<std::string> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder_, ignored)) {
    std::ifstream stream(entry.path());
    for (std::string line; std::getline(stream, line);) {
      const std::string path(initialised_cuda_library(line));
      if (!path.empty() && std::find(found.begin(), found.end(), path) == found.end()) found.push_back(path);
    }
  }
  return found;
}

}  // namespace vgpu::cli
