"""A private vgpud for one test, and the programs that run against it.

Everything a test starts is a child of the test (or reparented to it), so that what is left behind can be seen. Never
touches an installed vgpud, its sockets or its configuration.
"""

import ctypes
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("VGPU_BUILD_DIR", ROOT / "build" / "release")).resolve()
PROGRAMS = BUILD / "tests" / "programs"
CLIENT_LIBRARY = BUILD / "lib"
SOFTWARE_GPU = BUILD / "lib" / "softgpu"
DEVICE_KIND = os.environ.get("VGPU_TEST_DEVICE", "software")
# Matrix libraries of our own, which take the place of NVIDIA's where the device is the software GPU.
CUBLAS = BUILD / "lib" / "cublas"
CLIENT_LIBRARIES = [CLIENT_LIBRARY] + ([CUBLAS] if DEVICE_KIND == "software" else [])

_PR_SET_CHILD_SUBREAPER = 36


def library_path(folders):
    """These folders as LD_LIBRARY_PATH has them."""
    return os.pathsep.join(map(str, folders))


def become_subreaper():
    """Orphaned descendants become children of this process instead of disappearing from sight."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(pid):
    """The pids of a process's direct children."""
    found = []
    try:
        tasks = list(pathlib.Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:  # it has ended meanwhile
        return found
    for task in tasks:
        try:
            found += [int(text) for text in task.read_text().split()]
        except OSError:
            continue
    return found


def descendants(pid):
    found = []
    for child in children(pid):
        found += [child] + descendants(child)
    return found


def is_zombie(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def open_files(pid):
    """What a process's descriptors point to: {descriptor: target}."""
    found = {}
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(entry.name)] = os.readlink(entry)
        except OSError:
            continue
    return found


def shared_memory_kib():
    """Kernel-wide shared memory (memfds and tmpfs) in KiB."""
    text = pathlib.Path("/proc/meminfo").read_text()
    return int(re.search(r"^Shmem:\s+(\d+)", text, re.MULTILINE).group(1))


def wait_until(condition, timeout, what):
    """Polls until condition() is true; raises AssertionError with `what` after the timeout in seconds."""
    end = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(0.01)


class Service:
    """A vgpud of one's own in a temporary folder; use it as a context manager."""

    def __init__(self, classes=None, rules=None, prestart=2, extra="", device="", more_devices=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="vgpud-test-"))
        self.socket = self.folder / "vgpud.sock"
        self.control = self.folder / "control.sock"
        self.config = self.folder / "vgpud.yaml"
        self.log = self.folder / "vgpud.log"
        self.prestart = prestart
        self.extra = extra
        self.device = device
        self.more_devices = more_devices
        self.process = None
        self.write_config(classes, rules)

    def write_config(self, classes=None, rules=None):
        """Writes the configuration; classes: {name: {key: value}}, rules: [(executable pattern, class)]."""
        lines = ["log: {level: info, target: stderr}",
                 f"devices: [{{name: test, kind: {DEVICE_KIND}, prestart: {self.prestart}"
                 + (f", {self.device}" if self.device else "") + "}"
                 + "".join(f", {{kind: {DEVICE_KIND}, prestart: {self.prestart}, {more}}}" for more in self.more_devices)
                 + "]",
                 "classes:"]
        for name, values in (classes or {"default": {}}).items():
            body = ", ".join(f"{key}: {value}" for key, value in values.items())
            lines.append(f"  {name}: {{{body}}}")
        if rules:
            lines.append("rules:")
            lines += [f"  - {{match: {{executable: '{pattern}'}}, class: {name}}}" for pattern, name in rules]
        self.config.write_text("\n".join(lines) + "\n" + self.extra)

    def launch(self):
        """Starts the process; start() waits until it serves."""
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [BUILD / "bin" / "vgpud", "--config", self.config, "--socket", self.socket, "--control", self.control],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start(self):
        self.process = self.launch()
        wait_until(lambda: self.process.poll() is not None or self.answers(), 20, "vgpud answers on its control socket")
        if self.process.poll() is not None:
            raise AssertionError(f"vgpud ended with {self.process.returncode}:\n{self.log_text()}")
        return self

    def answers(self):
        return self.control.exists() and self.cli("stats", "--json", check=False).returncode == 0

    def log_text(self):
        return self.log.read_text(errors="replace")[-8000:]

    def stop(self):
        """Ends vgpud by SIGTERM; raises if it does not end cleanly or leaves a process behind."""
        if self.process is None:
            return
        workers = descendants(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"vgpud did not end within 10 s of SIGTERM:\n{self.log_text()}") from None
        finally:
            pid, self.process = self.process.pid, None
        if status != 0:
            raise AssertionError(f"vgpud ({pid}) ended with {status}:\n{self.log_text()}")
        wait_until(lambda: all(is_zombie(worker) for worker in workers), 5, "the workers end with vgpud")

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self._clean_up()
            raise

    def __exit__(self, kind, *_):
        try:
            if kind is not None:
                print(f"--- the end of vgpud's log\n{self.log_text()}---", file=sys.stderr)
            self.stop()
        finally:
            self._clean_up()

    def _clean_up(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self, **more):
        """What a client needs to reach this vgpud."""
        # What this machine's user may see of its cards is vgpud's matter, not that of its clients.
        inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        return {**inherited, "LD_LIBRARY_PATH": library_path(CLIENT_LIBRARIES), "VGPUD_SOCKET": str(self.socket),
                "VGPUD_CONTROL": str(self.control), **more}

    def popen(self, program, *arguments, env=None, **options):
        """Starts a test program as a client; standard output is a text pipe unless said otherwise."""
        options.setdefault("stdout", subprocess.PIPE)
        path = program if os.sep in str(program) else PROGRAMS / program
        return subprocess.Popen([str(path), *map(str, arguments)], env=env or self.environment(), text=True, **options)

    def run(self, program, *arguments, timeout=60, env=None):
        """Runs a test program to its end; returns the CompletedProcess with stdout and stderr."""
        path = program if os.sep in str(program) else PROGRAMS / program
        return subprocess.run([str(path), *map(str, arguments)], env=env or self.environment(), text=True,
                              timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)

    def cli(self, *arguments, check=True, timeout=60, env=None):
        """Runs vgpud-cli against this vgpud."""
        return subprocess.run([str(BUILD / "bin" / "vgpud-cli"), *map(str, arguments)], env=env or self.environment(),
                              text=True, check=check, timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def wait_for_workers(self, timeout=30):
        """Waits until the pool of ready workers is full: what they take of the device is then taken."""
        def full():
            devices = json.loads(self.cli("devices", "--json").stdout)
            return all(device["workers_ready"] >= self.prestart and device["workers_starting"] == 0
                       for device in devices)
        wait_until(full, timeout, "the ready workers have started")

    def stats(self, *options):
        """The answer of `vgpud-cli stats --json`."""
        return json.loads(self.cli("stats", "--json", *options).stdout)

    def clients(self):
        """The rows of `vgpud-cli stats --json` for clients that are connected now."""
        return [row for row in self.stats()["clients"] if not row.get("ended", False)]


def first_line(process, timeout=20):
    """Waits for a started program's first line of output (its "ready"); the rest stays for communicate()."""
    readable, _, _ = select.select([process.stdout], [], [], timeout)
    line = process.stdout.readline() if readable else ""
    if not line:
        process.kill()
        raise AssertionError(f"the program said nothing within {timeout} s and ended with {process.wait()}")
    return line


def kernels_done(output):
    """The number of kernels that `busy` says it finished in its time."""
    match = re.search(r"kernels (\d+)", output)
    if match is None:
        raise AssertionError(f"no count of kernels in: {output!r}")
    return int(match.group(1))
