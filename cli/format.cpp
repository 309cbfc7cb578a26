#include "cli/format.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace vgpu::cli {
namespace {

// `value` with about three significant digits.
std::string short_number(double value, const char* unit) {
  std::array<char, 48> text{};
  const int decimals = value < 10 ? 2 : value < 100 ? 1 : 0;
  std::snprintf(text.data(), text.size(), "%.*f %s", decimals, value, unit);
  return text.data();
}

std::string join(const std::vector<std::string>& cells, const std::vector<std::size_t>& widths,
                 std::size_t left) {
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const std::string padding(widths[i] - cells[i].size(), ' ');
    if (i > 0) line += "  ";
    line += i < left ? cells[i] + padding : padding + cells[i];
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

}  // namespace

std::string printable(std::string text) {
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) c = '?';
  }
  return text;
}

std::string format_bytes(std::uint64_t bytes) {
  static constexpr std::array<const char*, 6> units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes == 0) return "0";
  if (bytes < 1024) return std::to_string(bytes) + " B";
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < units.size()) {
    value /= 1024;
    ++unit;
  }
  return short_number(value, units[unit]);
}

std::string format_time(std::uint64_t ns) {
  const auto value = static_cast<double>(ns);
  if (ns == 0) return "0";
  if (ns < 1000) return std::to_string(ns) + " ns";
  if (ns < 1'000'000) return short_number(value / 1e3, "us");
  if (ns < 1'000'000'000) return short_number(value / 1e6, "ms");
  return short_number(value / 1e9, "s");
}

std::string format_count(std::uint64_t count) {
  const auto value = static_cast<double>(count);
  if (count < 100'000) return std::to_string(count);
  if (count < 1'000'000'000) return short_number(value / 1e6, "M");
  return short_number(value / 1e9, "G");
}

std::string format_percent(double part) {
  return std::to_string(std::lround(part * 100)) + "%";
}

std::string format_table(const std::vector<std::string>& heading,
                         const std::vector<std::vector<std::string>>& rows, std::size_t left) {
  std::vector<std::vector<std::string>> cells{heading};
  cells.insert(cells.end(), rows.begin(), rows.end());
  std::vector<std::size_t> widths(heading.size(), 0);
  for (auto& row : cells) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      row[i] = printable(std::move(row[i]));
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string text;
  for (const auto& row : cells) text += join(row, widths, left);
  return text;
}

void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
}

bool flush_output() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return true;
  print_error("the output cannot be written");
  return false;
}

void print_error(const std::string& sentence) {
  std::fprintf(stderr, "vgpud-cli: %s\n", sentence.c_str());
}

}  // namespace vgpu::cli
