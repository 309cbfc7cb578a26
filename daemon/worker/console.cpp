#include "daemon/worker/console.hpp"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <span>

#include "protocol/errno_text.hpp"
#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::worker {

tl::expected<std::unique_ptr<Console>, std::string> Console::take_over_stdout() {
  UniqueFd file(memfd_create("vgpud-console", MFD_CLOEXEC));
  if (!file || fcntl(file.get(), F_SETFL, O_APPEND) != 0 || dup2(file.get(), STDOUT_FILENO) < 0) {
    return tl::unexpected(errno_text("a file for what kernels print"));
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

bool Console::put(int socket, const char* text, std::size_t bytes) {
  if (slot_ != nullptr) return put_into_slot(text, bytes);
  ConsoleText message;
  message.bytes = static_cast<std::uint32_t>(bytes);
  std::memcpy(message.text, text, bytes);
  return try_send_message(socket, std::as_bytes(std::span(&message, 1)));
}

bool Console::put_into_slot(const char* text, std::size_t bytes) {
  // The guest's word is only a bound: where to write is this side's knowledge.
  const std::uint64_t unread = put_ - slot_->guest.console_read.load(std::memory_order_acquire);
  if (unread > stub::console_bytes || stub::console_bytes - unread < bytes) return false;
  const std::size_t at = put_ % stub::console_bytes;
  const std::size_t first = std::min(bytes, stub::console_bytes - at);
  std::memcpy(slot_->console + at, text, first);
  std::memcpy(slot_->console, text + first, bytes - first);
  put_ += bytes;
  slot_->host.console_written.store(put_, std::memory_order_release);
  return true;
}

bool Console::forward(int socket) {
  const std::lock_guard lock(mutex_);
  std::fflush(stdout);
  struct stat status {};
  if (fstat(file_.get(), &status) != 0 || status.st_size <= sent_) return false;
  bool any = false;
  while (sent_ < status.st_size) {
    std::array<char, sizeof ConsoleText::text> text;
    const auto wanted =
        std::min<std::int64_t>(status.st_size - sent_, static_cast<std::int64_t>(text.size()));
    const ssize_t got = pread(file_.get(), text.data(), static_cast<std::size_t>(wanted), sent_);
    if (got <= 0 || !put(socket, text.data(), static_cast<std::size_t>(got))) break;
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
