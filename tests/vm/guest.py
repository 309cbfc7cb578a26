"""A booted guest under QEMU: what is laid over its root, its job, its console. Knows nothing of vgpud."""

import os
import pathlib
import re
import shutil
import subprocess
import threading
import time

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "vgpud" / "guest"
HERE = pathlib.Path(__file__).resolve().parent

TARGET_UNIT = """[Unit]
Requires=basic.target
Wants=guest-job.service
After=basic.target
AllowIsolate=yes
"""

# Powers off at once: an orderly shutdown takes 1.5 s more under emulation.
JOB_UNIT = """[Unit]
After=basic.target
[Service]
Type=oneshot
Environment=HOME=/root
ExecStart=/bin/sh -c 'bash /guest-job; echo "GUEST-JOB-ENDED $?"; systemctl poweroff -ff'
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
"""


class Unavailable(Exception):
    """No guest can be booted here; the text says why."""


def prepare():
    """The folder with kernel and root; raises Unavailable where there is none to be had."""
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("cpio", "cpio"), ("dpkg-deb", "dpkg")):
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is not installed (package {package})")
    if os.geteuid() != 0:
        raise Unavailable("making a guest's root needs root")
    made = subprocess.run([HERE / "build-guest", CACHE], text=True, stderr=subprocess.PIPE, check=False)
    if made.returncode == 77:
        raise Unavailable(made.stderr.strip())
    if made.returncode != 0:
        raise RuntimeError(f"build-guest ended with {made.returncode}:\n{made.stderr}")
    return CACHE


def accelerator():
    """KVM only with hardware behind it: other modules offer /dev/kvm and cannot run Debian's kernel."""
    modules = pathlib.Path("/sys/module")
    real = any((modules / name).is_dir() for name in ("kvm_intel", "kvm_amd"))
    return "kvm" if real and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


class Root:
    """Files to lay over the guest's root."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def write(self, path, text, mode=0o644):
        target = self.folder / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def copy(self, source, path):
        target = self.folder / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)

    def copy_tree(self, source, path="/"):
        shutil.copytree(source, self.folder / path.lstrip("/"), symlinks=True, dirs_exist_ok=True)

    def add_libraries(self):
        """Copies the shared libraries of this machine that the programs so far need, where the root lacks them."""
        own = {path.name for path in self.folder.rglob("*.so*")}
        for file in [path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()]:
            with file.open("rb") as stream:
                if stream.read(4) != b"\x7fELF":
                    continue
            listed = subprocess.run(["ldd", file], text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                    check=False).stdout
            for name, path in re.findall(r"^\s*(\S+) => (/\S+)", listed, re.MULTILINE):
                if name not in own:
                    own.add(name)
                    self.copy(os.path.realpath(path), f"/usr/lib/x86_64-linux-gnu/{name}")


class Guest:
    """One virtual machine, from start() to its end. `job` is a bash script that root runs once the guest is up."""

    def __init__(self, name, root, job, devices, folder, cpus=2, memory_mb=768):
        self.name = name
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        root.write("/guest-job", job)
        root.write("/etc/systemd/system/guest-job.target", TARGET_UNIT)
        root.write("/etc/systemd/system/guest-job.service", JOB_UNIT)
        self.initrd = self.folder / f"{name}.cpio"
        self._pack(root)
        words = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-M", "q35",
                 "-accel", accelerator(), "-cpu", "host" if accelerator() == "kvm" else "max",
                 # With one CPU QEMU's emulation makes atomics that are none to another process.
                 "-smp", f"{cpus},maxcpus={max(cpus, 2)}", "-m", str(memory_mb),
                 "-kernel", CACHE / "vmlinuz", "-initrd", self.initrd,
                 "-append", "console=ttyS0 panic=-1 quiet mitigations=off audit=0 systemd.unit=guest-job.target "
                            "systemd.show_status=0 " + os.environ.get("VGPU_GUEST_APPEND", "")]
        self.words = [str(word) for word in (*words, *devices)]
        self.process = None
        self.lines = []  # of the console
        self.started = 0.0

    def _pack(self, root):
        with self.initrd.open("wb") as out:
            with (CACHE / "base.cpio").open("rb") as base:
                shutil.copyfileobj(base, out, 1 << 20)
            out.flush()
            names = subprocess.Popen(["find", "."], cwd=root.folder, stdout=subprocess.PIPE)
            subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=root.folder, stdin=names.stdout,
                           stdout=out, check=True)
            names.stdout.close()
            names.wait()

    def start(self):
        self.started = time.monotonic()
        self.process = subprocess.Popen(self.words, text=True, errors="replace", stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append((time.monotonic() - self.started, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line.rstrip("\r\n"))))

    def console(self):
        return "\n".join(f"[{self.name} {when:6.2f}] {line}" for when, line in self.lines)

    def find(self, pattern):
        """The first match on a line of the console so far, or None."""
        for _, line in list(self.lines):
            if match := re.search(pattern, line):
                return match
        return None

    def wait_for(self, pattern, timeout):
        end = time.monotonic() + timeout
        while not (match := self.find(pattern)):
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"no {pattern!r} within {timeout} s from {self.name}:\n{self.console()}")
            time.sleep(0.02)
        return match

    def finish(self, timeout):
        """Waits until the job has ended; its exit status."""
        status = int(self.wait_for(r"GUEST-JOB-ENDED (\d+)", timeout).group(1))
        self.process.wait(10)
        return status

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
        self.initrd.unlink(missing_ok=True)
