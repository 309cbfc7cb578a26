#!/usr/bin/env python3
"""On demand: the test programs at once, in random order, while an operator interferes and vgpud is restarted. Every program
checks its results itself, so one that nobody killed must succeed, however many others run; nothing may be left behind.

    VGPU_BUILD_DIR=build/release tests/soak/soak.py [--seconds 300] [--seed N] [--clients 4] [--policy fair] [--calm]
        [--oversubscribe SIZE] [--memory SIZE] [--guest] [--programs NAME,...]

--calm: nobody interferes. --oversubscribe: so much host memory for what is moved out of a device with --memory (128M). --guest:
the programs are a guest's, over its link to a host's vgpud; neither vgpud is restarted. What the sanitizers of such a build say
is a problem, too. The seed decides what happens, though not when; it is printed. Ends with 1 if anything was wrong.
"""

import argparse
import collections
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / name) for name in ("integration", "stub")]

import harness  # noqa: E402
import link  # noqa: E402
import restarts  # noqa: E402

# Those that need arguments, a quota or several devices, or that fail on purpose without a vgpud.
LEFT_OUT = {"no_service", "scribble", "out_of_quota", "busy", "busy_devices", "cpu_only", "oversub", "trap", "copies",
            "device_probe", "exit_no_cleanup", "mem_info"}
# Memory of cudaMalloc cannot be shared there, and what is free depends on the others.
NOT_OVERSUBSCRIBED = {"ipc", "vmm"}
WITH_ARGUMENTS = [("busy", "--seconds", "0.5"), ("busy", "--seconds", "1", "--rounds", "20000"), ("copies", "24"),
                  ("oversub", "--megabytes", "24", "--seconds", "0.2"),
                  ("oversub", "--megabytes", "48", "--seconds", "2"), ("trap", "trap"), ("exit_no_cleanup", "_exit"),
                  ("busy", "--seconds", "2", "--step", "4", "--pause-us", "3000")]
CLASSES = {"default": {}, "gold": {"weight": 300}, "high": {"priority": "high"}, "low": {"priority": "low", "weight": 30},
           "narrow": {"queue_depth": 1}, "slow": {"launch_rate": 2000, "bandwidth": "200MiB"}, "small": {"arena": "1MiB"}}
TIMEOUT = 240


def commands(only, left_out):
    found = sorted(path.name for path in harness.PROGRAMS.iterdir() if path.is_file() and os.access(path, os.X_OK))
    plain = [(name,) for name in found if name.removesuffix("_shared") not in left_out]
    more = [(name + kind, *arguments) for name, *arguments in WITH_ARGUMENTS for kind in ("", "_shared")]
    return [command for command in plain + more if not only or command[0].removesuffix("_shared") in only]


class Soak:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        left_out = LEFT_OUT | (NOT_OVERSUBSCRIBED if options.oversubscribe else set())
        self.commands = commands(options.programs, left_out)
        self.until = time.monotonic() + options.seconds
        self.lock = threading.Lock()
        self.running = {}  # pid: process
        self.harmed = set()  # pids of those whose end is our doing
        self.counts = collections.Counter()
        self.problems = []
        self.link = link.Link(size="2GiB", slots=options.clients + 3, guest_classes=CLASSES) if options.guest else None
        if self.link:
            self.service = self.link.guest
            return
        device = f"policy: {options.policy}"
        if options.oversubscribe:
            device += f", oversubscribe: {{host_limit: {options.oversubscribe}, minimum_residence: 200ms}}"
        self.service = restarts.RestartableService(classes=CLASSES, rules=self.rules(), device=device,
                                                   extra="scheduler: {aging: 300ms}\n")

    def rules(self):
        """Some programs to each class, by their names."""
        letters = "abcdefghijklmnopqrstuvwxyz"
        classes = list(CLASSES)
        chosen = {letter: self.random.choice(classes) for letter in letters}
        return [(f"*/{letter}*", name) for letter, name in chosen.items() if name != "default"]

    def problem(self, text):
        print(f"PROBLEM: {text}", flush=True)
        self.problems.append(text)

    def client(self, seed):
        choice = random.Random(seed)
        while time.monotonic() < self.until:
            command = choice.choice(self.commands)
            began = time.monotonic()
            process = self.service.popen(*command, stderr=subprocess.PIPE)
            with self.lock:
                self.running[process.pid] = process
            try:
                output, errors = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                self.problem(f"{' '.join(command)} (pid {process.pid}) does not end:\n{self.row_of(process.pid)}")
                process.kill()
                process.communicate()
                continue
            finally:
                with self.lock:
                    self.running.pop(process.pid, None)
                    harmed = process.pid in self.harmed
            self.counts["programs"] += 1
            seconds = time.monotonic() - began
            if process.returncode != 0 and not harmed:
                self.problem(f"{' '.join(command)} ended with {process.returncode} after {seconds:.1f} s:\n"
                             f"{output[-500:]}{errors[-1500:]}")

    def row_of(self, pid):
        return next((row for row in self.service.clients() if row["pid"] == pid), "it is no client")

    def victim(self):
        with self.lock:
            return self.random.choice(sorted(self.running)) if self.running else None

    def cli(self, *arguments):
        """What is asked of a client that has just ended is refused, which is right."""
        self.service.cli(*arguments, check=False)

    # What is done to them.
    def kill_a_client(self, pid):
        with self.lock:
            if pid not in self.running:
                return
            self.harmed.add(pid)
            self.running[pid].kill()

    def kill_its_worker(self, pid):
        row = next((row for row in self.service.clients() if row["pid"] == pid), None)
        if row is None:
            return
        with self.lock:
            self.harmed.add(pid)
        try:
            os.kill(row["worker_pid"], signal.SIGKILL)
        except ProcessLookupError:
            pass

    def end_its_use(self, pid):
        with self.lock:
            self.harmed.add(pid)
        self.cli("kill", pid)

    def pause_and_resume(self, pid):
        self.cli("pause", pid)
        time.sleep(self.random.uniform(0, 1))
        self.cli("resume", pid)

    def change_its_class(self, pid):
        self.cli("set", "client", pid, f"class={self.random.choice(list(CLASSES))}")

    def change_its_weight(self, pid):
        self.cli("set", "client", pid, f"weight={self.random.choice((1, 100, 1000))}")

    def restart(self, _):
        self.service.restart()

    def crash(self, _):
        self.service.restart(signal.SIGKILL)

    def interfere(self):
        deeds = [self.kill_a_client, self.kill_its_worker, self.end_its_use, self.pause_and_resume, self.change_its_class,
                 self.change_its_weight]
        if not self.link:
            deeds += [self.restart, self.crash]
        while time.monotonic() < self.until:
            time.sleep(self.random.uniform(0, 1.5))
            pid = self.victim()
            if pid is None:
                continue
            deed = self.random.choice(deeds)
            self.counts[deed.__name__] += 1
            deed(pid)

    def workers(self):
        return [pid for pid in harness.descendants(os.getpid()) if not harness.is_zombie(pid)
                and pathlib.Path(f"/proc/{pid}/exe").resolve().name in ("vgpud-worker", "vgpud-link")]

    def ready(self):
        return self.service.prestart + (self.link.host.prestart + 1 if self.link else 0)

    def check_the_end(self):
        """All that the clients had is given back."""
        harness.wait_until(lambda: not self.service.clients(), 20, "the clients have gone")
        self.service.wait_for_workers()
        stats = self.service.stats()
        files = harness.open_files(self.service.process.pid)
        harness.wait_until(lambda: len(self.workers()) == self.ready(), 10, f"{self.ready()} workers are left")
        # A few for itself, its listening sockets, and some for each ready worker.
        if len(files) > 60:
            self.problem(f"vgpud holds {len(files)} descriptors: {collections.Counter(files.values()).most_common(8)}")
        if self.link:
            host = self.link.host
            harness.wait_until(lambda: len(host.clients()) <= 1, 20, "the host's sessions have ended")
        elif len(self.service.store.stored) > 12 * self.ready() + 8:
            self.problem(f"the descriptor store holds {sorted(self.service.store.stored)}")
        for service in (self.service, *([self.link.host] if self.link else [])):
            log = service.log.read_text(errors="replace")
            for found in re.finditer(r"Sanitizer|runtime error:", log):
                self.problem(log[max(0, found.start() - 200):found.start() + 3000])
                break
        moves = sum(row.get("moves_out", 0) for row in self.service.stats("--ended")["ended"])
        resident = int(pathlib.Path(f"/proc/{self.service.process.pid}/statm").read_text().split()[1]) * 4096
        print(f"vgpud: {len(files)} descriptors, {resident >> 20} MiB; the last clients were moved out "
              f"{moves} times; {stats['broker']}")

    def run(self):
        print(f"seed {self.options.seed}, {len(self.commands)} programs, policy {self.options.policy}", flush=True)
        with self.link or self.service:
            clients = [threading.Thread(target=self.client, args=(self.random.random(),)) for _ in range(self.options.clients)]
            for thread in clients:
                thread.start()
            try:
                if not self.options.calm:
                    self.interfere()
            except BaseException:
                self.until = time.monotonic()
                raise
            finally:
                for thread in clients:
                    thread.join()
            self.check_the_end()
        print(", ".join(f"{name} {count}" for name, count in self.counts.most_common()))
        print(f"{len(self.problems)} problems")
        return 1 if self.problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--policy", default="fair")
    parser.add_argument("--oversubscribe", metavar="SIZE")
    parser.add_argument("--memory", default="128M")
    parser.add_argument("--calm", action="store_true")
    parser.add_argument("--guest", action="store_true")
    parser.add_argument("--programs", type=lambda text: text.split(","), default=[])
    options = parser.parse_args()
    if options.oversubscribe:
        os.environ["SOFTGPU_MEMORY"] = options.memory
    harness.become_subreaper()
    return Soak(options).run()


if __name__ == "__main__":
    sys.exit(main())
