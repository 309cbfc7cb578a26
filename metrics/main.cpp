// vgpud-metrics: exposes what vgpud knows to Prometheus. A process of its own, so that no scraper can hold up
// vgpud.
#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>

#include "cli/control_client.hpp"
#include "metrics/exposition.hpp"
#include "metrics/http_server.hpp"
#ifdef VGPU_HAVE_SYSTEMD
#include <fcntl.h>
#include <systemd/sd-daemon.h>
#endif

namespace {

using vgpu::UniqueFd;

constexpr const char* kDefaultAddress = "127.0.0.1:9745";

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string page(const std::string& control) {
  namespace metrics = vgpu::metrics;
  auto client = vgpu::cli::ControlClient::connect(control);
  if (client) {
    if (const auto answer = client->ask({{"request", "stats"}, {"histograms", true}})) {
      try {
        return metrics::to_text(metrics::metrics_of(*answer, unix_time()));
      } catch (const nlohmann::json::exception&) {  // vgpud's answer is not what it should be
      }
    }
  }
  return metrics::to_text(metrics::metrics_of_silence());
}

// The socket that systemd passed, or an empty one.
UniqueFd passed_socket() {
#ifdef VGPU_HAVE_SYSTEMD
  if (sd_listen_fds(1) == 1 && sd_is_socket(SD_LISTEN_FDS_START, AF_UNSPEC, SOCK_STREAM, 1) > 0) {
    fcntl(SD_LISTEN_FDS_START, F_SETFD, FD_CLOEXEC);
    return UniqueFd(SD_LISTEN_FDS_START);
  }
#endif
  return {};
}

void notify_ready() {
#ifdef VGPU_HAVE_SYSTEMD
  sd_notify(1, "READY=1");
#endif
}

int serve(const std::string& control, const std::string& address) {
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  sigaddset(&ending, SIGINT);
  sigprocmask(SIG_BLOCK, &ending, nullptr);  // before the server's thread is made
  std::signal(SIGPIPE, SIG_IGN);
  UniqueFd listener = passed_socket();
  if (!listener) {
    auto made = vgpu::metrics::listen_at(address);
    if (!made) {
      std::fprintf(stderr, "vgpud-metrics: %s\n", made.error().c_str());
      return 1;
    }
    listener = std::move(*made);
  }
  const auto server =
      vgpu::metrics::HttpServer::start(std::move(listener), [control] { return page(control); });
  if (!server) {
    std::fprintf(stderr, "vgpud-metrics: %s\n", server.error().c_str());
    return 1;
  }
  notify_ready();
  int number = 0;
  sigwait(&ending, &number);
  return 0;
}

int run(int argc, char** argv) {
  std::string control;
  std::string address = kDefaultAddress;
  CLI::App app("vgpud-metrics serves vgpud's figures to Prometheus at http://ADDRESS/metrics.",
               "vgpud-metrics");
  app.set_version_flag("--version", "vgpud-metrics " VGPU_VERSION);
  app.add_option("--control", control, "Control socket of the vgpud to ask")->type_name("PATH");
  app.add_option("--listen", address, "Where to serve, unless systemd passes a socket")
      ->type_name("ADDRESS:PORT")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return serve(vgpu::cli::control_path(control), address);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "vgpud-metrics: %s\n", error.what());
    return 1;
  }
}
