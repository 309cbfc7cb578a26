// Serves the control socket: lines in, lines out, within bounds. What a line means is requests.hpp's.
#pragma once

#include <functional>
#include <string>
#include <unordered_map>

#include "daemon/base/event_loop.hpp"
#include "daemon/control/requester.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {

// Belongs to the loop's thread. A peer that sends an endless line, reads nothing or opens too many
// connections is dropped; no user but root may take more than a quarter of the connections.
class ControlServer {
 public:
  // Answers one line (without its newline) by one line.
  using Handler = std::function<std::string(const std::string& line, const Requester& who)>;

  // `listener`: a listening STREAM socket.
  ControlServer(EventLoop& loop, UniqueFd listener, unsigned max_connections, Handler handler);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  [[nodiscard]] std::size_t connections() const { return connections_.size(); }

 private:
  struct Connection {
    UniqueFd socket;
    Requester who;
    std::string in;
    std::string out;
  };

  void accept_one();
  void on_event(int fd, std::uint32_t events);
  // False when the connection is to be dropped.
  bool read_some(Connection& connection);
  bool answer_one(Connection& connection);
  bool write_some(Connection& connection);
  void drop(int fd);

  EventLoop& loop_;
  UniqueFd listener_;
  unsigned max_connections_;
  Handler handler_;
  std::unordered_map<int, Connection> connections_;
};

}  // namespace vgpu::daemon
