#!/usr/bin/env python3
"""What an administrator and users see of an installed vgpud under systemd. Runs as root inside the container that `run`
boots, never on a machine that matters: it adds users, edits /etc and stops services.
"""

import json
import os
import pathlib
import signal
import subprocess
import time
import unittest
import urllib.request

PROGRAMS = pathlib.Path("/vgpud-programs")
CONFIG = pathlib.Path("/etc/vgpud/vgpud.yaml")
DROP_IN = pathlib.Path("/run/systemd/system/vgpud.service.d/test.conf")
LIBRARY_PATH = pathlib.Path("/etc/ld.so.conf.d/00-vgpud.conf")
MEMBER, OUTSIDER = "alice", "bob"

# What Ollama's server asks at its start, in a unit restricted as its packages' units are, most of all together.
PROBE = "/vgpud-probe"
OLLAMA_UNIT = pathlib.Path("/run/systemd/system/ollama.service")
OLLAMA_DROP_IN = pathlib.Path("/run/systemd/system/ollama.service.d/vgpud.conf")
OLLAMA = f"""[Unit]
After=network-online.target
[Service]
Type=oneshot
ExecStart={PROBE}
User=ollama
Group=ollama
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome=yes
NoNewPrivileges=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
CapabilityBoundingSet=
SystemCallArchitectures=native
SystemCallFilter=@system-service
"""


def command(*words, user=None, check=True, timeout=60):
    """Runs a command as root or as a user with that user's own groups; returns the CompletedProcess."""
    if user is not None:
        words = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--inh-caps=-all", *words)
    result = subprocess.run([str(word) for word in words], text=True, timeout=timeout, check=False, cwd="/",
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if check and result.returncode != 0:
        raise AssertionError(f"{words} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
    return result


def program(name, *arguments, user=MEMBER, **options):
    return command("vgpud-cli", "run", "--", PROGRAMS / name, *arguments, user=user, **options)


def systemctl(*words, **options):
    return command("systemctl", *words, **options)


def shown(name, unit="vgpud.service"):
    return systemctl("show", "--value", "-p", name, unit).stdout.strip()


def active(unit="vgpud.service"):
    return systemctl("is-active", unit, check=False).stdout.strip() == "active"


def main_pid():
    return int(shown("MainPID"))


def processes():
    """The pids of all vgpud and vgpud-worker processes: {pid: name}."""
    found = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            name = pathlib.Path(os.readlink(entry / "exe")).name
        except OSError:
            continue
        if name in ("vgpud", "vgpud-worker"):
            found[int(entry.name)] = name
    return found


def status_of(pid):
    """/proc/PID/status as {field: value}."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def journal(*words):
    command("journalctl", "--sync")
    return command("journalctl", "--no-pager", "--output=cat", "--unit=vgpud.service", *words).stdout


def wait_until(condition, timeout, what):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout} s\n{journal('-n', '20')}")
        time.sleep(0.02)


def start_busy(seconds, already=0):
    """A program of the member that computes for so long; returns once vgpud, which has `already` clients, has admitted it."""
    words = ["setpriv", f"--reuid={MEMBER}", f"--regid={MEMBER}", "--init-groups", "vgpud-cli", "run", "--",
             str(PROGRAMS / "busy"), "--seconds", str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(clients()) > already and clients()[-1]["launches"] > 0, 20, "the busy client computes")
    return process


def clients():
    return json.loads(command("vgpud-cli", "stats", "--json").stdout)["clients"]


class Installed(unittest.TestCase):
    """Each test finds the sockets listening, the service stopped and the configuration as installed."""

    @classmethod
    def setUpClass(cls):
        command("systemd-sysusers")
        command("systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/vgpud.conf")
        command("ldconfig")
        for user in (MEMBER, OUTSIDER):
            command("useradd", "--create-home", "--user-group", user)
        command("usermod", "--append", "--groups", "vgpu", MEMBER)
        cls.config = CONFIG.read_text()

    @classmethod
    def tearDownClass(cls):
        # What ends slowly delays the container's end; the log should say who it was.
        print(command("ps", "-eo", "pid,ppid,user,stat,args").stdout, flush=True)

    def setUp(self):
        systemctl("reset-failed")
        systemctl("start", "vgpud.socket")

    def tearDown(self):
        systemctl("stop", "vgpud.service", "vgpud.socket")
        CONFIG.write_text(self.config)
        if DROP_IN.exists():
            DROP_IN.unlink()
            systemctl("daemon-reload")

    def drop_in(self, text):
        DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        DROP_IN.write_text(f"[Service]\n{text}\n")
        systemctl("daemon-reload")

    def assertGoesOn(self, before):
        """The clients of `before`, {session: figures}, are those of this vgpud, and compute."""
        now = {client["session"]: client for client in clients()}
        self.assertEqual(now.keys(), before.keys())
        for session, old in before.items():
            for key in ("pid", "uid", "worker_pid", "class", "device", "state", "executable"):
                self.assertEqual(now[session][key], old[key])
            self.assertGreater(now[session]["launches"], old["launches"])
        wait_until(lambda: all(client["launches"] > now[client["session"]]["launches"] for client in clients()), 10,
                   "the clients go on")

    def test_enable_starts_socket_and_service(self):
        systemctl("enable", "--now", "vgpud.socket", "vgpud.service")
        self.assertTrue(active() and active("vgpud.socket"))
        systemctl("disable", "vgpud.socket", "vgpud.service")

    def test_start_returns_when_the_service_is_ready(self):
        systemctl("start", "vgpud")
        self.assertTrue(active())
        self.assertEqual(shown("StatusText"), "serving 1 device(s)")
        self.assertEqual(json.loads(command("vgpud-cli", "devices", "--json").stdout)[0]["kind"], "software")

    def test_the_first_cuda_call_starts_the_service(self):
        self.assertFalse(active())
        program("vector_add")
        self.assertTrue(active())
        self.assertEqual(processes().get(main_pid()), "vgpud")

    def test_the_first_request_of_the_command_line_starts_the_service(self):
        self.assertFalse(active())
        command("vgpud-cli", "stats")
        self.assertTrue(active())

    def test_only_members_of_the_group_get_the_device(self):
        program("vector_add", user=MEMBER)
        program("vector_add_shared", user=MEMBER)
        refused = program("vector_add", user=OUTSIDER, check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("/run/vgpud/vgpud.sock", refused.stderr)
        self.assertIn("Permission denied", refused.stderr)
        self.assertIn("vgpu", refused.stderr)
        cli = command("vgpud-cli", "stats", user=OUTSIDER, check=False)
        self.assertEqual(cli.returncode, 3)
        self.assertIn("Permission denied", cli.stderr)

    def test_only_the_group_of_qemu_reaches_the_sockets_of_vms(self):
        systemctl("start", "vgpud")
        command("vgpud-cli", "vm", "add", "vm1", "--size", "16M", "--slots", "2")
        path = pathlib.Path("/run/vgpud/vm/vm1.sock")
        self.assertEqual((path.parent.owner(), path.parent.group(), path.parent.stat().st_mode & 0o7777),
                         ("vgpud", "vgpu-vm", 0o2750))
        self.assertEqual((path.owner(), path.group(), path.stat().st_mode & 0o777), ("vgpud", "vgpu-vm", 0o660))
        connect = ("python3", "-c", f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{path}'); s.recv(8)")
        for user in (MEMBER, OUTSIDER):
            self.assertIn("Permission denied", command(*connect, user=user, check=False).stderr)
        command("useradd", "--system", "--user-group", "--groups", "vgpu-vm", "qemu")
        try:
            command(*connect, user="qemu")
            self.assertNotEqual(program("vector_add", user="qemu", check=False).returncode, 0)
        finally:
            command("userdel", "qemu")

    def test_the_services_own_group_is_nobody_elses(self):
        systemctl("start", "vgpud")
        groups = command("id", "--name", "--groups", "vgpud").stdout.split()
        self.assertNotIn("vgpu", groups)
        self.assertEqual(command("getent", "group", "vgpud").stdout.strip().split(":")[3], "")
        own = command("id", "--group", "vgpud").stdout.strip()
        for pid in processes():
            self.assertEqual(set(status_of(pid)["Gid"].split()), {own})

    def test_the_command_line_serves_root_and_members(self):
        for user in (None, MEMBER):
            with self.subTest(user=user or "root"):
                command("vgpud-cli", "stats", user=user)
                self.assertIn("gpu0", command("vgpud-cli", "devices", user=user).stdout)
                verified = command("vgpud-cli", "verify", "--", PROGRAMS / "vector_add", user=user)
                self.assertIn("\nVERIFIED", verified.stdout)
                computed = command("vgpud-cli", "verify", "--", "/bin/true", user=user, check=False)
                self.assertEqual(computed.returncode, 1)
                self.assertIn("NOT VERIFIED", computed.stdout)

    def test_a_line_in_ld_so_conf_is_enough_for_all_programs(self):
        LIBRARY_PATH.write_text("/usr/lib/vgpud\n")
        try:
            command("ldconfig")
            command(PROGRAMS / "vector_add", user=MEMBER)
            self.assertEqual(json.loads(command("vgpud-cli", "devices", "--json").stdout)[0]["kind"], "software")
            self.assertIn("client admitted", journal(f"_PID={main_pid()}"))
        finally:
            LIBRARY_PATH.unlink()
            command("ldconfig")

    def test_the_drop_in_gives_ollamas_hardened_unit_the_device(self):
        command("useradd", "--system", "--user-group", "--no-create-home", "ollama")
        OLLAMA_UNIT.write_text(OLLAMA)
        try:
            systemctl("daemon-reload")
            self.assertNotEqual(systemctl("start", "ollama", check=False).returncode, 0)  # no library, no group
            OLLAMA_DROP_IN.parent.mkdir()
            OLLAMA_DROP_IN.write_text(pathlib.Path("/vgpud-ollama/vgpud.conf").read_text())
            systemctl("daemon-reload")
            systemctl("reset-failed", "ollama")
            systemctl("start", "ollama")
            command("journalctl", "--sync")
            output = command("journalctl", "--no-pager", "--output=cat", "--unit=ollama.service").stdout
            self.assertIn("name vgpud Software GPU", output)
            self.assertTrue(active(), "the drop-in wants vgpud")
        finally:
            OLLAMA_UNIT.unlink()
            OLLAMA_DROP_IN.unlink(missing_ok=True)
            systemctl("daemon-reload")
            command("userdel", "ollama")

    def test_broker_and_workers_are_confined(self):
        systemctl("start", "vgpud")
        found = {}

        def a_worker_is_there():
            found.clear()
            found.update(processes())
            # A child of the broker's that is about to become a worker has the broker's executable, and no capability.
            return sorted(set(found.values())) == ["vgpud", "vgpud-worker"] and list(found.values()).count("vgpud") == 1

        wait_until(a_worker_is_there, 20, "a worker is ready")
        for pid, name in found.items():
            with self.subTest(process=name):
                status = status_of(pid)
                self.assertNotIn("0", status["Uid"].split())
                self.assertEqual(status["NoNewPrivs"], "1")
                self.assertEqual(status["Seccomp"], "2")
                # CAP_SYS_PTRACE is bit 19: the broker alone has it.
                self.assertEqual(int(status["CapEff"], 16), 1 << 19 if name == "vgpud" else 0)

    def test_rules_see_the_executables_of_other_users(self):
        text = f"rules: [{{match: {{executable: '{PROGRAMS}/busy'}}, class: batch}}]"
        CONFIG.write_text(self.config.replace("rules: []", text))
        client = start_busy(30)
        try:
            self.assertEqual(clients()[0]["class"], "batch")
        finally:
            client.terminate()
            client.wait(20)

    def test_reload_applies_the_configuration(self):
        systemctl("start", "vgpud")
        pid = main_pid()
        CONFIG.write_text(self.config + "# edited\n")
        systemctl("reload", "vgpud")
        wait_until(lambda: "configuration reloaded" in journal(f"_PID={pid}"), 10, "the journal tells of the reload")
        self.assertEqual(main_pid(), pid)

    def test_reload_refuses_a_wrong_configuration_and_keeps_the_old_one(self):
        systemctl("start", "vgpud")
        pid = main_pid()
        CONFIG.write_text("devices: [{name: gpu0, kind: toaster}]\n")
        self.assertNotEqual(systemctl("reload", "vgpud", check=False).returncode, 0)
        self.assertIn("'kind' must be one of", journal("-n", "20"))
        self.assertEqual(main_pid(), pid)
        program("vector_add")

    def test_saved_changes_survive_a_restart_and_the_file_stays_as_it_is(self):
        saved = pathlib.Path("/var/lib/vgpud/vgpud.d/50-cli.yaml")
        try:
            command("vgpud-cli", "set", "class", "default", "weight=70", "--save")
            self.assertNotEqual(command("vgpud-cli", "set", "class", "default", "weight=80", user=MEMBER,
                                        check=False).returncode, 0)
            self.assertTrue(saved.exists())
            self.assertEqual(CONFIG.read_text(), self.config)
            systemctl("restart", "vgpud")
            client = start_busy(30)
            try:
                self.assertEqual(clients()[0]["weight"], 70)
            finally:
                client.terminate()
                client.wait(20)
        finally:
            saved.unlink(missing_ok=True)

    def test_the_first_scrape_starts_the_metrics_service_which_sees_all_and_may_change_nothing(self):
        systemctl("start", "vgpud-metrics.socket")
        try:
            client = start_busy(30)
            try:
                with urllib.request.urlopen("http://127.0.0.1:9745/metrics", timeout=20) as answer:
                    page = answer.read().decode()
                self.assertIn("\nvgpud_up 1\n", page)
                self.assertIn('program="busy"', page)
                status = status_of(int(shown("MainPID", "vgpud-metrics.service")))
                self.assertNotIn("0", status["Uid"].split())
                self.assertEqual(int(status["CapEff"], 16), 0)
            finally:
                client.terminate()
                client.wait(20)
        finally:
            systemctl("stop", "vgpud-metrics.socket", "vgpud-metrics.service")

    def test_stop_leaves_no_process_and_clients_get_an_error(self):
        client = start_busy(60)
        # A worker that cannot do anything itself any more: the kernel ends it all the same.
        os.kill(clients()[0]["worker_pid"], signal.SIGSTOP)
        started = time.monotonic()
        systemctl("stop", "vgpud.service", "vgpud.socket")
        self.assertLess(time.monotonic() - started, 5)
        wait_until(lambda: processes() == {}, 2, "no process of vgpud is left")
        self.assertNotEqual(client.wait(10), 0)
        self.assertFalse(pathlib.Path("/run/vgpud/vgpud.sock").exists())
        self.assertEqual(shown("Result"), "success")

    def test_clients_go_on_when_vgpud_is_restarted(self):
        systemctl("start", "vgpud")
        busy = [start_busy(10, already) for already in (0, 1)]
        before = {client["session"]: client for client in clients()}
        for _ in range(2):
            pid = main_pid()
            systemctl("restart", "vgpud")
            self.assertNotEqual(main_pid(), pid)
            self.assertGoesOn(before)
        self.assertEqual(journal(f"_PID={main_pid()}").count("client adopted"), 2)
        self.assertEqual([client.wait(60) for client in busy], [0, 0])
        wait_until(lambda: not clients(), 5, "the adopted clients are seen to end")

    def test_clients_go_on_when_vgpud_is_killed(self):
        client = start_busy(10)
        before = {client["session"]: client for client in clients()}
        for restarts in (1, 2):
            old = main_pid()
            os.kill(old, signal.SIGKILL)
            wait_until(lambda: active() and main_pid() not in (0, old), 15, "vgpud is restarted")
            self.assertEqual(shown("NRestarts"), str(restarts))
            self.assertGoesOn(before)
        program("vector_add")
        self.assertEqual(client.wait(60), 0)

    def test_clients_go_on_when_vgpud_hangs(self):
        self.drop_in("WatchdogSec=1s\nTimeoutAbortSec=200ms")
        systemctl("start", "vgpud")
        time.sleep(2)
        self.assertEqual(shown("NRestarts"), "0")
        client = start_busy(12)
        before = {client["session"]: client for client in clients()}
        old = main_pid()
        os.kill(old, signal.SIGSTOP)
        wait_until(lambda: active() and main_pid() not in (0, old), 20, "the watchdog restarts vgpud")
        self.assertGoesOn(before)
        program("vector_add")
        self.assertEqual(client.wait(60), 0)

    def test_a_client_that_comes_during_a_restart_waits(self):
        systemctl("start", "vgpud")
        restart = subprocess.Popen(["systemctl", "restart", "vgpud"])
        for _ in range(5):
            program("vector_add")
        self.assertEqual(restart.wait(20), 0)

    def test_a_dynamic_user_serves_as_well(self):
        # systemd leaves the link of a dynamic user's RuntimeDirectory= behind, which a fixed user's start stumbles over.
        self.addCleanup(command, "rm", "-rf", "/run/vgpud-devices", "/run/private/vgpud-devices")
        self.drop_in("User=vgpud-dynamic\nDynamicUser=yes")
        client = start_busy(6)
        before = {client["session"]: client for client in clients()}
        users = {status_of(pid)["Uid"].split()[0] for pid in processes()}
        self.assertEqual(len(users), 1)
        self.assertTrue(61184 <= int(users.pop()) <= 65519, "uids of DynamicUser=")
        systemctl("restart", "vgpud")
        self.assertGoesOn(before)
        self.assertEqual(client.wait(60), 0)

    def test_the_journal_tells_what_happened(self):
        systemctl("start", "vgpud")
        pid = main_pid()
        program("vector_add")
        lines = journal(f"_PID={pid}")
        for text in ("vgpud serves", "device chosen", "client admitted"):
            self.assertEqual(lines.count(text), 1, f"{text!r} in:\n{lines}")
        self.assertEqual(journal(f"_PID={pid}", "--priority=warning"), "")


if __name__ == "__main__":
    unittest.main(verbosity=2)
