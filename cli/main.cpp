// vgpud-cli's command line.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "cli/commands.hpp"

namespace {

using vgpu::cli::RunOptions;
using vgpu::cli::StatsOptions;

constexpr const char* kFooter =
    "Examples:\n"
    "  vgpud-cli run -- ./vectorAdd                 a CUDA program through the running vgpud\n"
    "  vgpud-cli run --standalone -- ./vectorAdd    the same without a service, without root\n"
    "  vgpud-cli verify -- python3 train.py         did its work really reach the GPU?\n"
    "  vgpud-cli stats --watch                      who uses the GPU, and how much\n"
    "\n"
    "Environment: VGPUD_CONTROL is the control socket (default /run/vgpud/control.sock), VGPUD_SOCKET the\n"
    "socket of the clients (default /run/vgpud/vgpud.sock).\n"
    "Exit status: 0 done (verify: VERIFIED), 1 failed (verify: NOT VERIFIED), 3 no vgpud answers, 127 the "
    "program\n"
    "cannot be run; run gives the program's own status, 128 + N if signal N ended it.";

constexpr const char* kStatsFooter =
    "MEMORY / QUOTA  device memory now, and the most its class allows\n"
    "LAUNCHES        kernels and graphs launched      KERNELS  device time they took\n"
    "SHARE           of the device time that all clients used in the last second\n"
    "TO DEVICE, FROM bytes copied each way            QUEUE    ring units the worker has not taken yet\n"
    "WAITED          calls whose answer was waited for; P50, P95, P99: how long the worker took to answer "
    "them\n"
    "ERRORS          calls that failed";

constexpr const char* kVerifyFooter =
    "Gathers evidence from the dynamic linker and from vgpud, never from the program: which libcuda.so.1 "
    "was\n"
    "loaded, whether vgpud admitted it, what it allocated, loaded, launched, executed and copied, what "
    "failed.\n"
    "Ends in VERIFIED (exit status 0) or NOT VERIFIED with the reason (exit status 1). A program that "
    "computes on\n"
    "the CPU, or that itself ends with another status than 0, is not verified. Children of the program "
    "count.";

void add_program_options(CLI::App& command, RunOptions& options) {
  command.add_flag("--standalone", options.standalone,
                   "Start a private vgpud for just this program; needs no service and no root");
  command.add_option("--device", options.device, "With --standalone: auto, software or cuda")
      ->check(CLI::IsMember({"auto", "software", "cuda"}))
      ->capture_default_str();
  command.add_flag("--verbose", options.verbose, "With --standalone: show vgpud's log on standard error");
  command.add_option("--socket", options.socket, "Socket of the vgpud to use")->envname("VGPUD_SOCKET");
  command.add_option("program", options.command, "The program and its arguments, after --")
      ->required()
      ->type_name("-- PROGRAM [ARG...]");
  command.positionals_at_end();
}

int run(int argc, char** argv) {
  CLI::App app("vgpud-cli shows what vgpud's clients do with the GPU, and runs programs on it.", "vgpud-cli");
  app.set_version_flag("--version", "vgpud-cli " VGPU_VERSION);
  app.require_subcommand(1);
  std::string control;
  app.add_option("--control", control, "Control socket of the vgpud to ask")->type_name("PATH");
  app.fallthrough();

  int status = 0;
  StatsOptions stats;
  CLI::App* stats_command = app.add_subcommand("stats", "Show what each client uses");
  stats_command->footer(kStatsFooter);
  stats_command->add_flag("--json", stats.json, "Print everything that vgpud knows, as JSON");
  stats_command->add_flag("--ended", stats.ended, "Also show clients that have ended");
  stats_command->add_flag("--calls", stats.calls, "With --json: the number of calls by name");
  stats_command->add_option("--watch", stats.watch_seconds, "Repeat every SECONDS (1 if not given)")
      ->expected(0, 1)
      ->default_str("1")
      ->check(CLI::Range(0.1, 3600.0))
      ->type_name("SECONDS");
  stats_command->callback([&] {
    stats.control = control;
    if (stats_command->count("--watch") > 0 && stats.watch_seconds <= 0) stats.watch_seconds = 1;
    status = show_stats(stats);
  });

  bool json = false;
  CLI::App* ps = app.add_subcommand("ps", "List the clients: who they are, their class, device and worker");
  ps->add_flag("--json", json, "Print JSON");
  ps->callback([&] { status = vgpu::cli::show_processes(control, json); });

  CLI::App* devices = app.add_subcommand("devices", "List the devices, and why one cannot serve");
  devices->add_flag("--json", json, "Print JSON");
  devices->callback([&] { status = vgpu::cli::show_devices(control, json); });

  CLI::App* reload = app.add_subcommand("reload", "Make vgpud read its configuration again");
  reload->callback([&] { status = vgpu::cli::reload(control); });

  vgpu::cli::VmOptions vm;
  CLI::App* vms = app.add_subcommand("vm", "Show and change which VMs vgpud serves");
  vms->require_subcommand(1);
  CLI::App* vm_list = vms->add_subcommand("list", "List the VMs and what their guests use");
  vm_list->add_flag("--json", json, "Print JSON");
  vm_list->callback([&] { status = vgpu::cli::list_vms(control, json); });
  CLI::App* vm_add = vms->add_subcommand("add", "Serve one more VM, until vgpud ends; prints QEMU's options");
  vm_add->add_option("name", vm.name, "Its name")->required();
  vm_add->add_option("--size", vm.bytes, "Shared memory, a power of two, such as 256M")
      ->transform(CLI::AsSizeValue(false));
  vm_add->add_option("--slots", vm.slots, "Processes of the guest at a time")->check(CLI::Range(1, 64));
  vm_add->add_option("--class", vm.class_name, "Class of the VM as a whole");
  vm_add->add_option("--device", vm.device, "Device that its processes use");
  vm_add->add_option("--socket", vm.socket, "Where QEMU connects")->type_name("PATH");
  vm_add->callback([&] {
    vm.control = control;
    status = vgpu::cli::add_vm(vm);
  });
  CLI::App* vm_remove = vms->add_subcommand("remove", "Serve a VM no longer; what its guest runs ends");
  vm_remove->add_option("name", vm.name, "Its name")->required();
  vm_remove->callback([&] {
    vm.control = control;
    status = vgpu::cli::remove_vm(vm);
  });

  RunOptions program;
  CLI::App* run_command = app.add_subcommand(
      "run",
      "Run a CUDA program on vgpud's device: sets LD_LIBRARY_PATH so that it finds vgpud's libcuda.so.1");
  add_program_options(*run_command, program);
  run_command->callback([&] {
    program.control = control;
    status = run_program(program);
  });

  RunOptions verified;
  CLI::App* verify_command = app.add_subcommand(
      "verify", "Run a program and report, step by step, whether its work reached the device");
  verify_command->footer(kVerifyFooter);
  add_program_options(*verify_command, verified);
  verify_command->callback([&] {
    verified.control = control;
    status = verify_program(verified);
  });

  app.footer(kFooter);  // last: subcommands would inherit it
  CLI11_PARSE(app, argc, argv);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "vgpud-cli: %s\n", error.what());
    return 1;
  }
}
