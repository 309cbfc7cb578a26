// vgpud-cli's command line.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "cli/commands.hpp"
#include "cli/format.hpp"

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
    "Exit status: 0 done (verify: VERIFIED), 1 failed (verify: NOT VERIFIED), 2 the command line is wrong,\n"
    "3 no vgpud answers, 127 the program cannot be run; run gives the program's own status, 128 + N if "
    "signal N ended it.";

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

constexpr const char* kSetFooter =
    "  vgpud-cli set client 4711 weight=300          a running client, by its pid (or #SESSION); class=, "
    "device= too\n"
    "  vgpud-cli set class batch memory_quota=8GiB   all clients of a class, present and to come\n"
    "  vgpud-cli set rule students class=batch       a rule that has this name; a new one with "
    "match.uid=1000 and so on\n"
    "  vgpud-cli set device gpu0 prestart=4          also: set limits KEY=VALUE, set scheduler KEY=VALUE\n"
    "The keys are those of vgpud.yaml (docs/configuration.md); no value is wrong without a sentence that "
    "says why.\n"
    "Owners may lower the weight, priority, memory_quota, launch_rate and bandwidth of their clients; all "
    "else is for\n"
    "root and the group vgpu-admin.";

// Everything that changes clients or the policy.
class ChangeCommands {
 public:
  ChangeCommands(CLI::App& app, const std::string& control, int& status)
      : control_(control), status_(status) {
    CLI::App* set = app.add_subcommand("set", "Change a running client or the policy; holds at once");
    set->footer(kSetFooter);
    set->add_flag("--save", save_,
                  "Let it survive a restart, and a client's next start; your file is not touched");
    set->add_option("what", words_,
                    "client PID | class NAME | rule NAME | device NAME | limits | scheduler, KEY=VALUE...")
        ->required()
        ->type_name("TARGET KEY=VALUE...");
    set->callback([this] { status_ = vgpu::cli::set_values(control_, words_, save_); });
    add_act(app, "pause", "Give clients no device time until they are resumed; their calls wait");
    add_act(app, "resume", "Let paused clients go on");
    add_act(app, "kill", "End clients' use of the device: their calls fail from now on");
    add_quarantine(app);
    add_policy(app);
  }

 private:
  void add_act(CLI::App& app, const char* name, const char* help) {
    CLI::App* command = app.add_subcommand(name, help);
    command->add_option("clients", words_, "Pids of clients, or #SESSION")->required()->type_name("PID...");
    command->callback([this, name] { status_ = vgpu::cli::act_on_clients(control_, name, words_); });
  }

  void add_program(CLI::App& command) {
    command.add_option("client", program_.client, "Pid of a client of the program, or #SESSION")
        ->type_name("PID");
    command
        .add_option("--executable", program_.executable,
                    "The program's full path, where it has no client now")
        ->type_name("PATH");
    command.add_option("--user", program_.user, "With --executable: whose; you if not given")
        ->type_name("USER");
  }

  void add_quarantine(CLI::App& app) {
    CLI::App* quarantine = app.add_subcommand(
        "quarantine", "Keep a user's program from the device: its clients wait, new ones are refused");
    quarantine->footer("Without a program it lists those in quarantine.");
    add_program(*quarantine);
    quarantine
        ->add_option("--for", how_long_, "Until it is free by itself; until it is released if not given")
        ->type_name("TIME");
    quarantine->add_option("--why", why_, "What its refused clients and the list say")->type_name("TEXT");
    quarantine->add_flag("--json", json_, "Print the list as JSON");
    quarantine->callback(
        [this] { status_ = vgpu::cli::quarantine(control_, program_, how_long_, why_, json_); });
    CLI::App* release =
        app.add_subcommand("release", "Let a program out of quarantine; its faults are forgotten");
    add_program(*release);
    release->callback([this] { status_ = vgpu::cli::release(control_, program_); });
  }

  void add_policy(CLI::App& app) {
    CLI::App* policy = app.add_subcommand("policy", "The configuration that holds: show, check, reload");
    policy->require_subcommand(1);
    policy->add_subcommand("show", "Print every file and change that holds, in the order of reading")
        ->callback([this] { status_ = vgpu::cli::show_policy(control_); });
    CLI::App* check =
        policy->add_subcommand("check", "Say what is wrong with a file, or with those that vgpud uses");
    check->add_option("file", file_, "A configuration file")
        ->check([](const std::string& name) { return std::string(name.empty() ? "it needs a name" : ""); })
        ->type_name("FILE");
    check->callback([this] { status_ = vgpu::cli::check_policy(control_, file_); });
    policy->add_subcommand("reload", "Make the files hold; changes that were not saved are forgotten")
        ->callback([this] { status_ = vgpu::cli::reload(control_); });
  }

  const std::string& control_;
  int& status_;
  std::vector<std::string> words_;
  std::string file_;
  vgpu::cli::ProgramChoice program_;
  std::string how_long_, why_;
  bool json_ = false;
  bool save_ = false;
};

void add_program_options(CLI::App& command, RunOptions& options) {
  CLI::Option* standalone =
      command.add_flag("--standalone", options.standalone,
                       "Start a private vgpud for just this program; needs no service and no root");
  command.add_option("--device", options.device, "With --standalone: auto, software or cuda")
      ->check(CLI::IsMember({"auto", "software", "cuda"}))
      ->needs(standalone)
      ->capture_default_str();
  command.add_flag("--verbose", options.verbose, "With --standalone: show vgpud's log on standard error")
      ->needs(standalone);
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
  CLI::Option* stats_json =
      stats_command->add_flag("--json", stats.json, "Print everything that vgpud knows, as JSON");
  stats_command->add_flag("--ended", stats.ended, "Also show clients that have ended");
  stats_command->add_flag("--calls", stats.calls, "With --json: the number of calls by name")
      ->needs(stats_json);
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

#ifdef VGPU_HAVE_TOP
  double top_period = 1;
  CLI::App* top =
      app.add_subcommand("top", "A full-screen view: refreshes, sorts, acts on clients (? for its keys)");
  top->add_option("--period", top_period, "Seconds between two looks")
      ->check(CLI::Range(0.1, 3600.0))
      ->type_name("SECONDS")
      ->capture_default_str();
  top->callback([&] { status = vgpu::cli::show_top(control, top_period); });
#endif

  bool json = false;
  CLI::App* ps = app.add_subcommand("ps", "List the clients: who they are, their class, device and worker");
  ps->add_flag("--json", json, "Print JSON");
  ps->callback([&] { status = vgpu::cli::show_processes(control, json); });

  CLI::App* devices = app.add_subcommand("devices", "List the devices, and why one cannot serve");
  devices->add_flag("--json", json, "Print JSON");
  devices->callback([&] { status = vgpu::cli::show_devices(control, json); });

  const ChangeCommands changes(app, control, status);
  app.add_subcommand("reload", "The same as policy reload")->callback([&] {
    status = vgpu::cli::reload(control);
  });

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
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    status = app.exit(error) == 0 ? vgpu::cli::kGood : vgpu::cli::kUsage;
  }
  // A full disk must not look like an answer.
  if (status == vgpu::cli::kGood && !vgpu::cli::flush_output()) return vgpu::cli::kFailed;
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
