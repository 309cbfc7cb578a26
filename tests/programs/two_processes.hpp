// A program of two processes: it executes itself once more, before either has used CUDA, and both talk over a
// socket. The parent passes only if the child does.
#pragma once

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "check.hpp"

namespace check {

inline bool software_gpu() {
  cudaDeviceProp device{};
  CUDA_OK(cudaGetDeviceProperties(&device, 0));
  return std::strstr(device.name, "Software GPU") != nullptr;
}

/// True on NVIDIA's driver itself: neither through a vgpud nor on the software GPU. It answers a few made-up
/// handles otherwise than we promise to.
inline bool nvidias_driver() {
  return std::getenv("VGPUD_SOCKET") == nullptr && !software_gpu();
}

/// The other process. Messages are plain structs; a missing or short one fails the program.
class Partner {
 public:
  /// In the parent: starts the child as "PROGRAM ROLE", as another user if `user` is not 0.
  explicit Partner(const char* role, uid_t user = 0) {
    char program[4096] = {};
    EXPECT(readlink("/proc/self/exe", program, sizeof program - 1) > 0, "errno %d", errno);
    int ends[2];
    EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0, "errno %d", errno);
    child_ = fork();
    if (child_ == 0) {
      dup2(ends[1], child_socket);
      if (user != 0 && (setgid(user) != 0 || setuid(user) != 0)) _exit(126);
      execl(program, program, role, nullptr);
      _exit(127);
    }
    close(ends[1]);
    socket_ = ends[0];
  }
  /// In the child.
  Partner() : socket_(child_socket) {}

  template <class T>
  void send(const T& message, int fd = -1) {
    msghdr header{};
    iovec data{const_cast<T*>(&message), sizeof message};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
    if (fd >= 0) {
      header.msg_control = control;
      header.msg_controllen = sizeof control;
      cmsghdr* const rights = CMSG_FIRSTHDR(&header);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof fd);
      std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    EXPECT(sendmsg(socket_, &header, MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof message), "errno %d",
           errno);
  }
  template <class T>
  T receive(int* fd = nullptr) {
    T message{};
    msghdr header{};
    iovec data{&message, sizeof message};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    const ssize_t size = recvmsg(socket_, &header, 0);
    EXPECT(size == static_cast<ssize_t>(sizeof message), "the other process has gone (%zd bytes)", size);
    const cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    if (fd != nullptr) {
      EXPECT(rights != nullptr && rights->cmsg_type == SCM_RIGHTS, "no descriptor came");
      std::memcpy(fd, CMSG_DATA(rights), sizeof *fd);
    }
    return message;
  }
  /// Both wait here for each other.
  void meet() {
    send('m');
    static_cast<void>(receive<char>());
  }
  /// In the parent: kills the child, and waits until it has ended.
  void kill_child() {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
  }
  /// In the parent: the child's end.
  void finish() {
    int status = 0;
    EXPECT(waitpid(child_, &status, 0) == child_ && WIFEXITED(status) && WEXITSTATUS(status) == 0,
           "the other process ended with status %d", status);
  }

 private:
  static constexpr int child_socket = 100;
  int socket_ = -1;
  pid_t child_ = -1;
};

}  // namespace check
