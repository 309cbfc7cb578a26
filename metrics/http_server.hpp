// Serves one page by HTTP (libmicrohttpd) on a listening socket. Knows nothing of metrics.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <tl/expected.hpp>

#include "protocol/unique_fd.hpp"

namespace vgpu::metrics {

// Answers GET and HEAD of /metrics; anything else is 404 or 405. A thread of its own serves a bounded number
// of connections; one that sends or reads nothing for ten seconds is closed.
class HttpServer {
 public:
  // `page` makes the body (text/plain, Prometheus text format 0.0.4) of each answer, in the server's thread;
  // it must not throw.
  [[nodiscard]] static tl::expected<std::unique_ptr<HttpServer>, std::string> start(
      UniqueFd listener, std::function<std::string()> page);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

 private:
  struct State;
  explicit HttpServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// A listening TCP socket at "ADDRESS:PORT" ("127.0.0.1:9745", "[::1]:9745"). The error is a sentence.
[[nodiscard]] tl::expected<UniqueFd, std::string> listen_at(const std::string& address);

}  // namespace vgpu::metrics
