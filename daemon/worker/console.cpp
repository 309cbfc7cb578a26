#include "daemon/worker/console.hpp"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <span>

#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::worker {

tl::expected<std::unique_ptr<Console>, std::string> Console::take_over_stdout() {
  UniqueFd file(memfd_create("vgpud-console", MFD_CLOEXEC));
  if (!file || fcntl(file.get(), F_SETFL, O_APPEND) != 0 || dup2(file.get(), STDOUT_FILENO) < 0) {
    return tl::unexpected(std::string("a file for what kernels print: ") + std::strerror(errno));
  }
  return std::unique_ptr<Console>(new Console(std::move(file)));
}

void Console::trim() {
  constexpr std::int64_t most = std::int64_t{64} << 20;
  constexpr std::int64_t kept = std::int64_t{1} << 20;
  const std::lock_guard lock(mutex_);
  struct stat status {};
  if (fstat(file_.get(), &status) != 0 || status.st_size - sent_ <= most) return;
  sent_ = status.st_size - kept;
  fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, sent_ / 4096 * 4096);
}

bool Console::forward(int socket) {
  const std::lock_guard lock(mutex_);
  std::fflush(stdout);
  struct stat status {};
  if (fstat(file_.get(), &status) != 0 || status.st_size <= sent_) return false;
  bool any = false;
  while (sent_ < status.st_size) {
    ConsoleText text;
    const auto wanted = std::min<std::int64_t>(status.st_size - sent_, sizeof text.text);
    const ssize_t got = pread(file_.get(), text.text, static_cast<std::size_t>(wanted), sent_);
    if (got <= 0) break;
    text.bytes = static_cast<std::uint32_t>(got);
    if (!try_send_message(socket, std::as_bytes(std::span(&text, 1)))) break;
    sent_ += got;
    any = true;
  }
  // The memory goes back; the file's length only grows, so writers that append are not disturbed.
  if (const std::int64_t whole = sent_ / 4096 * 4096; whole != 0) {
    fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, whole);
  }
  return any;
}

}  // namespace vgpu::worker
