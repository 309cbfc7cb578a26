// vgpud-reserve BYTES: started by vgpud, which ends it with itself. Holds memory: so many bytes as the latest
// line of its standard input says, BYTES at most, none before the first. Prints how many it holds whenever it
// has done what it was told, and ends with its input.
#include <poll.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/host_memory/memory_reserve.hpp"
#include "daemon/host_memory/spare.hpp"

namespace {

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, problem] = std::from_chars(text.data(), end, value);
  return problem == std::errc() && rest == end ? std::optional(value) : std::nullopt;
}

// The last whole line that has come; the rest stays. None: none has. False: the input has ended.
bool read_aim(std::string& pending, std::optional<std::uint64_t>& aim) {
  std::array<char, 256> buffer{};
  const ssize_t size = read(STDIN_FILENO, buffer.data(), buffer.size());
  if (size <= 0) return false;
  pending.append(buffer.data(), static_cast<std::size_t>(size));
  for (std::size_t end = pending.find('\n'); end != std::string::npos; end = pending.find('\n')) {
    aim = number(std::string_view(pending).substr(0, end));
    pending.erase(0, end + 1);
  }
  return pending.size() < buffer.size();
}

int run(std::uint64_t most) {
  // The first to go when there is no memory.
  std::ofstream("/proc/self/oom_score_adj") << 1000;
  vgpu::host_memory::MemoryReserve reserve(most, [] { return vgpu::host_memory::spare_bytes(); });
  std::string pending;
  std::array<pollfd, 2> entries{pollfd{STDIN_FILENO, POLLIN, 0}, pollfd{reserve.settled_fd(), POLLIN, 0}};
  for (;;) {
    if (poll(entries.data(), entries.size(), -1) < 0) return 1;
    if (entries[0].revents != 0) {
      std::optional<std::uint64_t> aim;
      if (!read_aim(pending, aim)) return 0;
      if (aim) reserve.aim(*aim);
    }
    if (entries[1].revents != 0) {
      reserve.settled();
      std::printf("%llu\n", static_cast<unsigned long long>(reserve.held()));
      std::fflush(stdout);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto most = argc == 2 ? number(argv[1]) : std::nullopt;
    if (most && *most != 0) return run(*most);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "vgpud-reserve: %s\n", error.what());
    return 1;
  }
  std::fputs("usage: vgpud-reserve BYTES\n", stderr);
  return 2;
}
