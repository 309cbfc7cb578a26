// Figures and tables as people read them. Only print() and print_error() write anything.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vgpu::cli {

// "0", "512 B", "1.5 GiB": at most four digits.
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);
// "0", "850 ns", "12.3 us", "4.1 ms", "7.2 s"
[[nodiscard]] std::string format_time(std::uint64_t ns);
// "1234567" as "1.23 M"; exact below 100000.
[[nodiscard]] std::string format_count(std::uint64_t count);

// 0.257 as "26%".
[[nodiscard]] std::string format_percent(double part);

// Control characters replaced: names may come from clients.
[[nodiscard]] std::string printable(std::string text);

// Rows under a heading, columns as wide as their longest cell; the first `left` columns are left-aligned.
// Every row has as many cells as the heading. Control characters of cells are replaced: they may come from
// clients.
[[nodiscard]] std::string format_table(const std::vector<std::string>& heading,
                                       const std::vector<std::vector<std::string>>& rows, std::size_t left);

// On standard output, as it is.
void print(const std::string& text);

// Writes out what was printed; says so and is false where that is not possible.
[[nodiscard]] bool flush_output();

// The one form of what went wrong: "vgpud-cli: sentence" on stderr.
void print_error(const std::string& sentence);

}  // namespace vgpu::cli
