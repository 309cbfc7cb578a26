// vgpud's command line.
#include <sys/prctl.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <filesystem>

#include "daemon/base/log.hpp"
#include "daemon/service/service.hpp"

namespace {

using vgpu::daemon::ConfigError;

constexpr const char* kDefaultConfig = "/etc/vgpud/vgpud.yaml";
constexpr int kConfigWrong = 2;  // also the command line

constexpr const char* kFooter =
    "Without --config, /etc/vgpud/vgpud.yaml is read if it exists; else one device is served that is found "
    "by\n"
    "itself (an NVIDIA GPU, or the software GPU). vgpud needs neither root nor systemd:\n"
    "  vgpud --socket /tmp/me/vgpud.sock --control /tmp/me/control.sock\n"
    "Signals: SIGTERM and SIGINT end it and its workers (as a service of systemd: its clients go on with the "
    "vgpud that is\n"
    "started next); SIGHUP reloads the configuration and keeps the present one if the new one is wrong.\n"
    "Exit status: 0 ended by a signal, 1 could not start, 2 configuration or command line wrong.";

struct Options {
  std::string config;
  std::string check;
  vgpu::daemon::Overrides overrides;
};

int print_errors(const vgpu::daemon::ConfigErrors& errors) {
  for (const ConfigError& error : errors) std::fprintf(stderr, "%s\n", error.text().c_str());
  return kConfigWrong;
}

int check_config(const std::string& file) {
  const auto config = vgpu::daemon::load_config(file);
  if (!config) return print_errors(config.error());
  std::printf("%s: good (%zu devices, %zu classes, %zu rules)\n", file.c_str(), config->devices.size(),
              config->classes.size(), config->rules.size());
  return 0;
}

int serve(const Options& options) {
  std::string file = options.config;
  if (file.empty() && std::filesystem::exists(kDefaultConfig)) file = kDefaultConfig;
  auto documents = vgpu::daemon::config_documents(file);
  if (!documents) return print_errors(documents.error());
  auto config = vgpu::daemon::parse_config(*documents);
  if (!config) return print_errors(config.error());
  vgpu::daemon::Service service(std::move(*config), std::move(*documents), options.overrides);
  if (const auto started = service.start(); !started) {
    vgpu::daemon::log::error("vgpud cannot start reason={}", vgpu::daemon::log::quoted(started.error()));
    return 1;
  }
  service.run();
  return 0;
}

// An empty name, of a variable that is not set, must not mean that there is no file.
std::string needs_name(const std::string& name) {
  return name.empty() ? "a file needs a name" : "";
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app(
      "vgpud shares this machine's GPUs among processes: it admits them, gives each a worker that holds the "
      "GPU, and schedules whose work runs.",
      "vgpud");
  app.footer(kFooter);
  app.set_version_flag("--version", "vgpud " VGPU_VERSION);
  app.add_option("--config", options.config, "Configuration file (YAML)")
      ->check(needs_name)
      ->type_name("FILE");
  app.add_option("--check-config", options.check, "Check a configuration file, print its mistakes and end")
      ->check(needs_name)
      ->type_name("FILE");
  app.add_option("--socket", options.overrides.socket, "Socket for clients, instead of the configured one")
      ->type_name("PATH");
  app.add_option("--control", options.overrides.control,
                 "Socket for vgpud-cli, instead of the configured one")
      ->type_name("PATH");
  app.add_option("--sysfs-root", options.overrides.sysfs_root,
                 "Where to look for the VGPU-STUB function of a VM, instead of /sys")
      ->type_name("DIR");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kConfigWrong;
  }
  return options.check.empty() ? serve(options) : check_config(options.check);
}

}  // namespace

int main(int argc, char** argv) {
  // The scheduler's timers are to come when it says; the kernel puts others off by up to 50 us. Source:
  // prctl(2).
  prctl(PR_SET_TIMERSLACK, 1UL);
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "vgpud: %s\n", error.what());
    return 1;
  }
}
