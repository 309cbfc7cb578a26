// Which files a configuration is read from.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>

#include "daemon/config/load.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFile = std::size_t{1} << 20U;

// Whether the bytes are UTF-8 (RFC 3629) without a NUL, as YAML is read here.
bool is_text(std::string_view bytes) {
  for (std::size_t i = 0; i < bytes.size();) {
    const auto first = static_cast<unsigned char>(bytes[i]);
    if (first == 0) return false;
    const std::size_t size = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (size == 0 || first > 0xF4 || i + size > bytes.size()) return false;
    std::uint32_t point = size == 1 ? first : first & (0x7FU >> size);
    for (std::size_t k = 1; k < size; ++k) {
      const auto next = static_cast<unsigned char>(bytes[i + k]);
      if ((next & 0xC0U) != 0x80U) return false;
      point = point << 6U | (next & 0x3FU);
    }
    const bool overlong = (size == 3 && point < 0x800) || (size == 4 && point < 0x10000);
    if (overlong || (point >= 0xD800 && point < 0xE000) || point > 0x10FFFF) return false;
    i += size;
  }
  return true;
}

}  // namespace

tl::expected<std::string, std::string> config_text(const std::string& file) {
  const UniqueFd fd(open(file.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!fd) return tl::unexpected(std::string(std::strerror(errno)));
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) return tl::unexpected(std::string(std::strerror(errno)));
  if (!S_ISREG(status.st_mode)) return tl::unexpected(std::string("it is no regular file"));
  std::string text(kMaxFile + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t more = read(fd.get(), text.data() + size, text.size() - size);
    if (more < 0 && errno == EINTR) continue;
    if (more < 0) return tl::unexpected(std::string(std::strerror(errno)));
    if (more == 0) break;
    size += static_cast<std::size_t>(more);
  }
  if (size > kMaxFile) return tl::unexpected(std::string("the file is larger than 1 MiB"));
  text.resize(size);
  if (!is_text(text)) return tl::unexpected(std::string("it is not UTF-8 text"));
  return text;
}

namespace {

std::optional<std::string> read_file(const std::string& file, ConfigErrors& errors) {
  auto text = config_text(file);
  if (text) return std::move(*text);
  errors.push_back({file, 0, 0, "cannot read the configuration: " + text.error()});
  return std::nullopt;
}

}  // namespace

std::vector<std::string> drop_in_folders(const std::string& file) {
  std::vector<std::string> folders;
  if (!file.empty()) folders.push_back(fs::path(file).replace_extension(".d").string());
  if (const char* state = std::getenv("STATE_DIRECTORY"); state != nullptr && *state == '/') {
    const std::string_view first = std::string_view(state).substr(0, std::string_view(state).find(':'));
    folders.push_back((fs::path(first) / "vgpud.d").string());
  }
  return folders;
}

std::vector<ConfigDocument> config_documents(const std::string& file, ConfigErrors& errors) {
  std::vector<ConfigDocument> documents;
  if (!file.empty()) {
    if (auto text = read_file(file, errors)) documents.push_back({file, std::move(*text)});
  }
  std::vector<fs::path> drop_ins;
  for (const std::string& folder : drop_in_folders(file)) {
    std::error_code error;
    for (auto entry = fs::directory_iterator(folder, error); entry != fs::directory_iterator();
         entry.increment(error)) {
      if (entry->path().extension() == ".yaml") drop_ins.push_back(entry->path());
    }
    if (error && error != std::errc::no_such_file_or_directory) {
      errors.push_back({folder, 0, 0, "cannot read the drop-ins: " + error.message()});
    }
  }
  std::stable_sort(drop_ins.begin(), drop_ins.end(), [](const fs::path& a, const fs::path& b) {
    return a.filename().native() < b.filename().native();
  });
  for (const fs::path& path : drop_ins) {
    if (auto text = read_file(path, errors)) documents.push_back({path, std::move(*text), false});
  }
  return documents;
}

tl::expected<std::vector<ConfigDocument>, ConfigErrors> config_documents(const std::string& file) {
  ConfigErrors errors;
  auto documents = config_documents(file, errors);
  if (!errors.empty()) return tl::unexpected(std::move(errors));
  return documents;
}

tl::expected<Config, ConfigErrors> load_config(const std::string& file) {
  const auto documents = config_documents(file);
  if (!documents) return tl::unexpected(documents.error());
  return parse_config(*documents);
}

}  // namespace vgpu::daemon
