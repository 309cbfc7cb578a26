#include "daemon/config/quantity.hpp"

#include <array>
#include <charconv>
#include <limits>

namespace vgpu::daemon {
namespace {

struct Split {
  std::uint64_t number;
  std::string_view unit;
};

struct Unit {
  std::string_view name;
  std::uint64_t factor;
};

tl::expected<Split, std::string> split(std::string_view text, std::string_view what) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{}) {
    return tl::unexpected("'" + std::string(text) + "' is not " + std::string(what));
  }
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  return Split{number, unit};
}

template <std::size_t N>
tl::expected<std::uint64_t, std::string> scale(const Split& parts, const std::array<Unit, N>& units,
                                               std::uint64_t largest, std::string_view known) {
  for (const Unit& unit : units) {
    if (unit.name != parts.unit) continue;
    if (parts.number > largest / unit.factor) return tl::unexpected(std::string("the value is too large"));
    return parts.number * unit.factor;
  }
  return tl::unexpected("unknown unit '" + std::string(parts.unit) + "' (known: " + std::string(known) + ")");
}

}  // namespace

tl::expected<std::uint64_t, std::string> parse_size(std::string_view text) {
  static constexpr std::array<Unit, 14> units{{{"", 1},
                                               {"B", 1},
                                               {"K", 1ULL << 10U},
                                               {"KiB", 1ULL << 10U},
                                               {"KB", 1000ULL},
                                               {"M", 1ULL << 20U},
                                               {"MiB", 1ULL << 20U},
                                               {"MB", 1000'000ULL},
                                               {"G", 1ULL << 30U},
                                               {"GiB", 1ULL << 30U},
                                               {"GB", 1000'000'000ULL},
                                               {"T", 1ULL << 40U},
                                               {"TiB", 1ULL << 40U},
                                               {"TB", 1000'000'000'000ULL}}};
  const auto parts = split(text, "a size such as 512MiB or 4GiB");
  if (!parts) return tl::unexpected(parts.error());
  return scale(*parts, units, std::uint64_t{1} << 60U, "B, KiB, MiB, GiB, TiB, KB, MB, GB, TB");
}

tl::expected<std::chrono::microseconds, std::string> parse_duration(std::string_view text) {
  static constexpr std::array<Unit, 5> units{
      {{"us", 1}, {"ms", 1000}, {"s", 1000'000}, {"min", 60'000'000}, {"h", 3'600'000'000}}};
  if (text == "0") return std::chrono::microseconds{0};
  const auto parts = split(text, "a duration such as 250ms or 2s");
  if (!parts) return tl::unexpected(parts.error());
  const auto value = scale(*parts, units, std::uint64_t{1} << 50U, "us, ms, s, min, h");
  if (!value) return tl::unexpected(value.error());
  return std::chrono::microseconds{static_cast<std::int64_t>(*value)};
}

}  // namespace vgpu::daemon
