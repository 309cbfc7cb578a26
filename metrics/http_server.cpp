#include "metrics/http_server.hpp"

#include <microhttpd.h>
#include <netdb.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "protocol/errno_text.hpp"

namespace vgpu::metrics {
namespace {

constexpr unsigned kConnections = 32;
constexpr unsigned kPatience = 10;  // seconds
constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";
constexpr int kBacklog = 16;

using Page = std::function<std::string()>;

MHD_Result reply(MHD_Connection* connection, unsigned status, std::string body) {
  MHD_Response* response = MHD_create_response_from_buffer(body.size(), body.data(), MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, kContentType);
  const MHD_Result result = MHD_queue_response(connection, status, response);
  MHD_destroy_response(response);
  return result;
}

MHD_Result answer(void* context, MHD_Connection* connection, const char* url, const char* method, const char*,
                  const char*, std::size_t*, void**) {
  const std::string_view verb(method);
  if (verb != MHD_HTTP_METHOD_GET && verb != MHD_HTTP_METHOD_HEAD) {
    return reply(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET is served\n");
  }
  if (std::string_view(url) != "/metrics")
    return reply(connection, MHD_HTTP_NOT_FOUND, "the metrics are at /metrics\n");
  return reply(connection, MHD_HTTP_OK, (*static_cast<const Page*>(context))());
}

}  // namespace

struct HttpServer::State {
  Page page;
  MHD_Daemon* daemon = nullptr;
};

HttpServer::HttpServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

HttpServer::~HttpServer() {
  MHD_stop_daemon(state_->daemon);
}

tl::expected<std::unique_ptr<HttpServer>, std::string> HttpServer::start(UniqueFd listener, Page page) {
  auto state = std::make_unique<State>();
  state->page = std::move(page);
  // One thread: pages are made one after another, connections are served by epoll beside each other.
  state->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, 0, nullptr, nullptr, answer, &state->page,
                                   MHD_OPTION_LISTEN_SOCKET, listener.get(), MHD_OPTION_CONNECTION_LIMIT,
                                   kConnections, MHD_OPTION_CONNECTION_TIMEOUT, kPatience, MHD_OPTION_END);
  if (state->daemon == nullptr) return tl::unexpected(std::string("the HTTP server cannot start"));
  (void)listener.release();  // the daemon closes it
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
}

tl::expected<UniqueFd, std::string> listen_at(const std::string& address) {
  const auto colon = address.rfind(':');
  if (colon == std::string::npos) return tl::unexpected("'" + address + "' is not ADDRESS:PORT");
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo wanted{};
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), address.c_str() + colon + 1, &wanted, &found); error != 0) {
    return tl::unexpected("'" + address + "': " + gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  UniqueFd socket(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int yes = 1;
  if (!socket || setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      bind(socket.get(), found->ai_addr, found->ai_addrlen) != 0 || listen(socket.get(), kBacklog) != 0) {
    return tl::unexpected(errno_text("cannot listen at " + address));
  }
  return socket;
}

}  // namespace vgpu::metrics
