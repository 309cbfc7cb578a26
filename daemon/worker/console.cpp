#include "daemon/worker/console.hpp"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include "protocol/console_code.hpp"
#include "protocol/errno_text.hpp"
#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::worker {
namespace {

// Where descriptor 2 went before it was taken over; -1: it was not.
std::atomic<int> log_fd{-1};
std::atomic<std::int64_t> logged{0};

void write_log(const char* text, std::size_t bytes) {
  // A log that cannot be written to is nothing to act on here.
  if (::write(log_fd.load(), text, bytes) < 0) return;
}

// What the C++ runtime said just before is not to stay in a file that nobody reads any more.
void on_abort(int) {
  std::array<char, 512> text;
  std::int64_t at = logged.load();
  for (ssize_t got = 0; (got = pread(STDERR_FILENO, text.data(), text.size(), at)) > 0; at += got) {
    write_log(text.data(), static_cast<std::size_t>(got));
  }
}

// Source: CUDA C++ Programming Guide, "Assertion".
bool is_assertion(std::string_view line) {
  return line.find(": block: [") != std::string_view::npos &&
         line.find("Assertion `") != std::string_view::npos;
}

}  // namespace

void Console::settle_log() {
  const std::lock_guard lock(mutex_);
  sort_errors(true);
}

bool Console::take_over_stderr() {
  const std::lock_guard lock(mutex_);
  if (errors_) return true;
  UniqueFd file(memfd_create("vgpud-errors", MFD_CLOEXEC));
  const int log = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  if (!file || log < 0 || fcntl(file.get(), F_SETFL, O_APPEND) != 0) return false;
  log_fd.store(log);
  if (dup2(file.get(), STDERR_FILENO) < 0) return false;
  errors_ = std::move(file);
  std::signal(SIGABRT, on_abort);
  return true;
}

void Console::sort_errors(bool all) {
  if (!errors_) return;
  std::fflush(stderr);
  std::array<char, 4096> text;
  for (ssize_t got = 0; (got = pread(errors_.get(), text.data(), text.size(), sorted_)) > 0;) {
    sorted_ += got;
    unsorted_.append(text.data(), static_cast<std::size_t>(got));
  }
  std::size_t begin = 0;
  for (std::size_t end = 0; (end = unsorted_.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string_view line = std::string_view(unsorted_).substr(begin, end + 1 - begin);
    constexpr std::size_t most = std::size_t{1} << 20;
    if (is_assertion(line)) {
      if (assertions_.size() + line.size() <= most) assertions_ += line;
    } else {
      write_log(line.data(), line.size());
    }
  }
  unsorted_.erase(0, begin);
  if (all) write_log(unsorted_.data(), unsorted_.size());
  if (all) unsorted_.clear();
  logged.store(sorted_);
  if (const std::int64_t whole = sorted_ / 4096 * 4096; whole != 0) {
    fallocate(errors_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, whole);
  }
}

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
  sort_errors(false);
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

Console::Forwarded Console::forward(int socket) {
  const std::lock_guard lock(mutex_);
  std::fflush(stdout);
  sort_errors(false);
  const auto put_waiting = [&] {
    bool any = false;
    while (!waiting_.empty()) {
      const std::size_t size = std::min(waiting_.size(), sizeof ConsoleText::text);
      if (!put(socket, waiting_.data(), size)) break;
      waiting_.erase(0, size);
      any = true;
    }
    return any;
  };
  bool any = put_waiting();
  while (waiting_.empty()) {
    std::array<char, sizeof ConsoleText::text / 2> text;
    const ssize_t got = pread(file_.get(), text.data(), text.size(), sent_);
    if (got > 0) {
      sent_ += got;
      waiting_ = ConsoleCode::encode(std::string_view(text.data(), static_cast<std::size_t>(got)), false);
    } else if (!assertions_.empty()) {
      waiting_ = ConsoleCode::encode(std::exchange(assertions_, {}), true);
    } else {
      break;
    }
    any |= put_waiting();
  }
  // The memory goes back; the file's length only grows, so writers that append are not disturbed.
  if (const std::int64_t whole = sent_ / 4096 * 4096; whole != 0) {
    fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, whole);
  }
  return {any, !waiting_.empty()};
}

}  // namespace vgpu::worker
