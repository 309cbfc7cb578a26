#!/usr/bin/env python3
"""Booted guests with a VGPU-STUB device: Debian's kernel, systemd and udev under QEMU, an installed vgpud inside, and this
machine's vgpud with the software GPU at the other end. Skipped, with one line, only where no guest can be booted."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import unittest

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / name) for name in ("integration", "engine")]

import engine  # noqa: E402
import guest  # noqa: E402
import harness  # noqa: E402

WORK = harness.BUILD / "tests" / "vm"
INSTALLED = WORK / "installed"
SKIPPED = 77

# Waits for what udev starts; never starts vgpud itself.
PREAMBLE = r"""
echo UP
for turn in $(seq 60); do systemctl is-active --quiet vgpud.service && break; sleep 0.2; done
echo "VGPUD $(systemctl is-active vgpud.service) user $(systemctl show --value -p User vgpud.service)"
run() { vgpud-cli run -- "/opt/$@"; }
say() { printf '%s %s\n' "$1" "$(cat)"; }
"""


def qemu_device(socket):
    """QEMU's words for VGPU-STUB, as docs/vm-guide.md gives them."""
    return ["-chardev", f"socket,path={socket},id=vgpu",
            "-device", "ivshmem-doorbell,chardev=vgpu,vectors=2,addr=05.0"]


def install():
    """This build's files as `cmake --install` lays them out."""
    shutil.rmtree(INSTALLED, ignore_errors=True)
    subprocess.run(["cmake", "--install", harness.BUILD, "--prefix", "/usr", "--strip"], check=True,
                   stdout=subprocess.DEVNULL, env={**os.environ, "DESTDIR": str(INSTALLED)})
    shutil.rmtree(INSTALLED / "usr/lib/vgpud/cublas", ignore_errors=True)  # large, and no program here uses it


def guest_root(name, programs, files=()):
    """The installed vgpud and some programs, with the users that systemd-sysusers makes."""
    root = guest.Root(WORK / f"root-{name}")
    root.copy_tree(INSTALLED)
    for program in programs:
        root.copy(harness.PROGRAMS / program, f"/opt/{program}")
    for source, path in files:
        root.copy(source, path)
    root.add_libraries()
    for file in ("passwd", "group"):
        root.copy(guest.CACHE / file, f"/etc/{file}")
    subprocess.run(["systemd-sysusers", f"--root={root.folder}"], check=True, stderr=subprocess.DEVNULL)
    return root


class Vm(unittest.TestCase):
    """A vgpud on this machine and guests on its VM sockets."""

    CLASSES = {"default": {}}
    VMS = ("vm1",)
    SIZE = "64MiB"

    @classmethod
    def setUpClass(cls):
        install()

    def setUp(self):
        vms = ", ".join(f"{{name: {name}, size: {self.SIZE}, class: {self.class_of(name)}}}" for name in self.VMS)
        self.service = self.enterContext(harness.Service(classes=self.CLASSES, extra=f"vms: [{vms}]\n"))
        self.guests = []

    def class_of(self, name):
        return name if name in self.CLASSES else "default"

    def boot(self, name, programs, job, files=(), memory_mb=768):
        """`files`: (this machine's path, the guest's) pairs."""
        device = qemu_device(self.service.folder / "vm" / f"{name}.sock")
        root = guest_root(name, programs, files)
        one = guest.Guest(name, root, PREAMBLE + job, device, WORK, memory_mb=memory_mb)
        self.guests.append(one)
        self.addCleanup(one.kill)
        one.start()
        return one

    def host_stats(self):
        return json.loads(self.service.cli("stats", "--json", "--ended").stdout)


class OneGuest(Vm):
    """Booting to power-off is to stay within 60 s on two idle CPUs; a loaded machine is given more."""

    def test_two_programs_at_once_get_right_results(self):
        started = time.monotonic()
        one = self.boot("vm1", ("vector_add", "matmul_tiled", "nbody"), r"""
for name in vendor device enable; do cat /sys/bus/pci/devices/0000:00:05.0/$name; done | tr '\n' ' ' | say FUNCTION
for file in resource0 resource2; do
  path=/sys/bus/pci/devices/0000:00:05.0/$file
  stat -c '%U %G %a' $path | say "BAR $file"
  setpriv --reuid=1234 --regid=vgpu --clear-groups sh -c ": <> $path" 2>&1 | say "MEMBER $file"
done
(run matmul_tiled; echo "FIRST $?") & (run vector_add; echo "SECOND $?") & wait
vgpud-cli verify -- /opt/nbody; echo "VERIFY $?"
vgpud-cli devices
vgpud-cli stats --json --ended | tr -d '\n' | say STATS
for process in /proc/[0-9]*; do
  case $(readlink $process/exe) in
    */vgpud | */vgpud-link) sed -nE 's/^(Name|Uid|CapEff|NoNewPrivs|Seccomp):\s*(\S+).*/\2/p' $process/status | tr '\n' ' ' | say PROCESS ;;
  esac
done
journalctl --no-pager --output=cat --unit=vgpud.service | sed 's/^/JOURNAL /'
""")
        self.assertEqual(one.finish(240), 0, one.console())
        console = one.console()
        seconds = time.monotonic() - started
        self.assertIn("FUNCTION 0x1af4 0x1110 1", console)
        for file in ("resource0", "resource2"):
            self.assertIn(f"BAR {file} root vgpud 660", console)
            self.assertRegex(console, f"MEMBER {file} .*Permission denied")
        self.assertIn("VGPUD active user vgpud", console)
        for done in ("FIRST 0", "SECOND 0", "VERIFY 0"):
            self.assertIn(done, console)
        self.assertRegex(console, r"VERIFIED: ")
        inside = json.loads(one.find(r"^STATS (.*)").group(1))
        self.check_counts(inside, self.host_stats())
        self.check_doorbells(inside)
        self.check_confined(console)
        print(f"\nbooted guest, three programs, power-off: {seconds:.1f} s", file=sys.stderr)

    def check_counts(self, inside, outside):
        """Both sides tell the same of each process of the guest."""
        inside = {client["pid"]: client for client in inside["ended"] + inside["clients"]}
        outside = {client["guest_pid"]: client for client in outside["ended"] + outside["clients"] if client["guest_pid"]}
        self.assertEqual(len(inside), 3)
        self.assertEqual(inside.keys(), outside.keys())
        for pid, here in inside.items():
            there = outside[pid]
            for key in ("program", "launches", "bytes_to_device", "bytes_from_device", "errors", "modules"):
                self.assertEqual(here[key], there[key], f"{key} of {here['program']}")

    def check_doorbells(self, inside):
        """Rung in the guest, received on the host: each at least once; several rings may be received as one."""
        rung = sum(client["link_doorbells"] for client in inside["ended"] + inside["clients"])
        vm = {vm["name"]: vm for vm in self.host_stats()["vms"]}["vm1"]
        self.assertGreater(rung, 0)
        self.assertGreater(vm["doorbells"], 0)
        self.assertGreaterEqual(vm["sessions"], 3)  # those of links that wait for a program count, too

    def check_confined(self, console):
        processes = re.findall(r"PROCESS (\S+) (\d+) (\S+) (\d+) (\d+)", console)  # in the order of /proc/PID/status
        self.assertIn("vgpud", [name for name, *_ in processes])
        for name, uid, capabilities, no_new_privileges, seccomp in processes:
            with self.subTest(process=name):
                self.assertNotEqual(uid, "0")
                self.assertEqual((no_new_privileges, seccomp), ("1", "2"))
                self.assertEqual(int(capabilities, 16), 1 << 19 if name == "vgpud" else 0)


class TwoGuests(Vm):
    CLASSES = {"default": {}, "heavy": {"weight": 300}, "light": {"weight": 100}}
    VMS = ("heavy", "light")

    def test_two_guests_share_by_weight(self):
        job = r"""
echo READY
run busy --seconds 600 --rounds 20000 --blocks 64 --in-flight 64 & program=$!
trap 'kill $program' TERM
wait $program
"""
        guests = [self.boot(name, ("busy",), job) for name in self.VMS]
        for one in guests:
            one.wait_for(r": ready", 150)
        harness.wait_until(lambda: len(self.busy()) == 2, 30, "both guests' programs compute")
        # The first to compute had all its queue on the device while it was alone, and pays that back by waiting.
        met = self.busy()
        harness.wait_until(lambda: self.busy()["light"]["device_ns"] - met["light"]["device_ns"] > 1.2e9, 60, "the light guest gets on")
        used = self.used_while_both_want_it()
        ratio = used["heavy"] / used["light"]
        print(f"\nshares of two guests with weights 3:1: {ratio:.2f}:1", file=sys.stderr)
        self.assertGreater(ratio, 2.5)
        self.assertLess(ratio, 3.6)

    def used_while_both_want_it(self):
        """Device time in ns of each, summed over half seconds in which both stood at the gate with more: a share is only owed
        to who wants it, and an emulated CPU that the machine is slow to run does not always keep its queue filled. Nor
        does the half second behind another one count: who had the device alone pays there for what it had in flight."""
        used = dict.fromkeys(self.VMS, 0)
        counted = windows = 0
        until = time.monotonic() + 120
        before, wanted_before = self.busy(), True
        while used["light"] < 2e9 and time.monotonic() < until:
            time.sleep(0.5)
            after = self.busy()
            windows += 1
            gone = {name: {key: after[name][key] - before[name][key] for key in ("device_ns", "gate_wait_ns", "age_ns")}
                    for name in self.VMS}
            wanted = all(one["gate_wait_ns"] > 0.5 * one["age_ns"] for one in gone.values())
            if wanted and wanted_before:
                counted += 1
                for name in self.VMS:
                    used[name] += gone[name]["device_ns"]
            before, wanted_before = after, wanted
        print(f"\nboth guests wanted the device in {counted} of {windows} half seconds", file=sys.stderr)
        self.assertGreaterEqual(used["light"], 2e9, "the guests do not keep the device busy")
        return used

    def busy(self):
        """The statistics' row of each VM's program."""
        clients = json.loads(self.service.cli("stats", "--json").stdout)["clients"]
        return {client["vm"]: client for client in clients if client.get("vm") and client["launches"] > 1}


class Engine(Vm):
    """llama.cpp's prebuilt engine in the guest, to the tokens that it computes on this machine; some minutes of emulation."""

    SIZE = "256MiB"

    def test_the_same_tokens_as_on_this_machine(self):
        model = engine.model("q8_0")
        options = {"prompt_length": 42, "tokens": 12, "flash": True}
        wanted = engine.generate(model, engine.service_environment(self.service), **options)
        words = " ".join(f"--{key.replace('_', '-')} {int(value)}" for key, value in options.items())
        files = [(path.resolve(), f"/opt/engine/{path.name}") for path in sorted((engine.home() / "bin").iterdir())
                 if ".so" in path.name or path.name == "vgpud-generate"]
        files += [(path.resolve(), f"/opt/engine/{path.name}") for path in engine.CUBLAS.glob("*.so.13")]
        one = self.boot("vm1", (), rf"""
export LD_LIBRARY_PATH=/opt/engine
vgpud-cli run -- /opt/engine/vgpud-generate --model /opt/model.gguf {words} --gpu-layers 99 --threads 1 2>/tmp/errors
echo "ENGINE $?"; tail -n 5 /tmp/errors
vgpud-cli stats --json --ended | tr -d '
' | say STATS
""", [*files, (model, "/opt/model.gguf")], memory_mb=2048)
        self.assertEqual(one.finish(900), 0, one.console())
        console = one.console()
        self.assertIn("ENGINE 0", console)
        self.assertEqual(one.find(r"^tokens (.*)").group(1).split(), [str(token) for token in wanted.tokens], console)
        ended = json.loads(one.find(r"^STATS (.*)").group(1))["ended"]
        client, = [row for row in ended if row["program"] == "vgpud-generate"]
        self.assertGreaterEqual(client["graph_launches"] + client["launches"], 12)
        print(f"\nllama.cpp in a booted guest: {client['records']} records, {client['link_doorbells']} doorbells, the host's "
              f"tokens", file=sys.stderr)


if __name__ == "__main__":
    try:
        guest.prepare()
    except guest.Unavailable as problem:
        print(f"SKIPPED: {problem}")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
