#include "daemon/base/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "daemon/service/systemd.hpp"

namespace vgpu::daemon::log {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

void configure(const LogConfig& config) {
  const bool journal = config.target == LogTarget::journal ||
                       (config.target == LogTarget::automatic && systemd::stderr_is_journal());
  std::shared_ptr<spdlog::logger> logger = journal ? systemd::journal_logger() : nullptr;
  if (!logger) {
    logger = std::make_shared<spdlog::logger>("vgpud", std::make_shared<spdlog::sinks::stderr_sink_st>());
    logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e vgpud %l: %v");
  }
  logger->set_level(to_spdlog(config.level));
  logger->flush_on(spdlog::level::debug);
  spdlog::set_default_logger(std::move(logger));
}

void write(LogLevel level, std::string_view message) {
  // The message is data here, never a format.
  spdlog::default_logger_raw()->log(to_spdlog(level), spdlog::string_view_t(message.data(), message.size()));
}

std::string quoted(std::string_view text) {
  constexpr std::size_t longest = 200;
  std::string out = "\"";
  for (const char c : text.substr(0, longest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      out += fmt::format("\\x{:02x}", byte);
    }
  }
  if (text.size() > longest) out += "...";
  return out + "\"";
}

}  // namespace vgpu::daemon::log
