// Text that a guest wrote, made fit to be shown.
#pragma once

#include <array>
#include <cctype>
#include <cstring>
#include <string>

namespace vgpu::daemon::stub_host {

// Text of the guest's, for a table or a log: copied once, cut at its end, unprintable bytes replaced.
template <std::size_t N>
std::string printable(const char (&field)[N]) {
  std::array<char, N> copy;
  std::memcpy(copy.data(), field, N);
  std::string text(copy.data(), strnlen(copy.data(), N));
  for (char& letter : text) {
    if (std::isgraph(static_cast<unsigned char>(letter)) == 0) letter = '?';
  }
  return text;
}

}  // namespace vgpu::daemon::stub_host
