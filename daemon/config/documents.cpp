// Which files a configuration is read from.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

#include "daemon/config/load.hpp"

namespace vgpu::daemon {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFile = std::size_t{1} << 20U;

std::optional<std::string> read_file(const std::string& file, ConfigErrors& errors) {
  std::ifstream stream(file, std::ios::binary);
  std::string text;
  if (stream) {
    text.resize(kMaxFile + 1);
    stream.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(stream.gcount()));
  }
  if (stream.eof() && !stream.bad()) return text;
  const char* reason = text.size() > kMaxFile ? "the file is larger than 1 MiB" : std::strerror(errno);
  errors.push_back({file, 0, 0, std::string("cannot read the configuration: ") + reason});
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

tl::expected<std::vector<ConfigDocument>, ConfigErrors> config_documents(const std::string& file) {
  ConfigErrors errors;
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
  if (!errors.empty()) return tl::unexpected(std::move(errors));
  return documents;
}

tl::expected<Config, ConfigErrors> load_config(const std::string& file) {
  const auto documents = config_documents(file);
  if (!documents) return tl::unexpected(documents.error());
  return parse_config(*documents);
}

}  // namespace vgpu::daemon
