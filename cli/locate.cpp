#include "cli/locate.hpp"

#include <filesystem>
#include <initializer_list>
#include <system_error>

namespace vgpu::cli {
namespace {

namespace fs = std::filesystem;

fs::path own_folder() {
  std::error_code ignored;
  return fs::read_symlink("/proc/self/exe", ignored).parent_path();
}

tl::expected<std::string, std::string> first_of(std::initializer_list<fs::path> candidates,
                                                const char* what) {
  std::error_code ignored;
  std::string tried;
  for (const fs::path& path : candidates) {
    if (fs::exists(path, ignored)) return path.lexically_normal().string();
    tried += (tried.empty() ? "" : ", ") + path.lexically_normal().string();
  }
  return tl::unexpected(std::string(what) + " is not there (looked for " + tried + ")");
}

}  // namespace

tl::expected<std::string, std::string> client_library_folder() {
  const fs::path prefix = own_folder().parent_path();
  auto library =
      first_of({prefix / "lib/vgpud/libcuda.so.1", prefix / "lib/libcuda.so.1"}, "vgpud's client library");
  if (!library) return library;
  return fs::path(*library).parent_path().string();
}

std::string matrix_library_folder() {
  const fs::path prefix = own_folder().parent_path();
  return first_of({prefix / "lib/vgpud/cublas", prefix / "lib/cublas"}, "").value_or("");
}

tl::expected<std::string, std::string> broker_program() {
  const fs::path folder = own_folder();
  return first_of({folder / "vgpud", folder.parent_path() / "sbin/vgpud", "/usr/sbin/vgpud"}, "vgpud");
}

}  // namespace vgpu::cli
