#!/usr/bin/env python3
"""Ollama's probe finds the device through vgpud, quickly, in a filtered environment, under its service's hardening."""

import os
import pathlib
import subprocess
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))

import harness  # noqa: E402  (the path must be set first)

PROBE = harness.BUILD / "bin" / "engine_probe"
BUDGET_MS = 200

# What the systemd units of ollama's packages restrict, most of all together.
HARDENING = ["PrivateTmp=yes", "PrivateDevices=yes", "ProtectSystem=strict", "ProtectHome=yes", "NoNewPrivileges=yes",
             "ProtectKernelTunables=yes", "ProtectKernelModules=yes", "ProtectControlGroups=yes", "ProtectProc=invisible",
             "ProtectHostname=yes", "ProtectClock=yes", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
             "RestrictNamespaces=yes", "RestrictRealtime=yes", "RestrictSUIDSGID=yes", "LockPersonality=yes",
             "CapabilityBoundingSet=", "SystemCallArchitectures=native", "SystemCallFilter=@system-service"]


def filtered(service):
    """Nothing but what Ollama hands on to its probe."""
    return {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": str(harness.CLIENT_LIBRARY), "VGPUD_SOCKET": str(service.socket)}


def values(output):
    return dict(line.split(" ", 1) for line in output.splitlines())


class Probe(unittest.TestCase):
    def run_probe(self, env):
        return subprocess.run([str(PROBE)], env=env, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def test_the_device_is_found_within_the_budget(self):
        with harness.Service() as service:
            times = []
            for _ in range(5):
                found = self.run_probe(filtered(service))
                self.assertEqual(found.returncode, 0, found.stderr)
                times.append(float(values(found.stdout)["milliseconds"]))
            self.assertLess(sorted(times)[2], BUDGET_MS, f"of {times}")

    def test_memory_is_the_quota_of_the_clients_class(self):
        quota = 256 << 20
        with harness.Service(classes={"default": {"memory_quota": "256MiB"}}) as service:
            found = self.run_probe(filtered(service))
            self.assertEqual(found.returncode, 0, found.stderr)
            self.assertEqual(int(values(found.stdout)["total"]), quota)

    def test_without_a_service_the_answer_is_quick_and_clear(self):
        env = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": str(harness.CLIENT_LIBRARY), "VGPUD_SOCKET": "/nonexistent/sock"}
        found = self.run_probe(env)
        self.assertEqual(found.returncode, 1)
        self.assertIn("cuInit returned", found.stderr)

    def test_probing_leaves_no_client_behind(self):
        with harness.Service() as service:
            for _ in range(3):
                self.assertEqual(self.run_probe(filtered(service)).returncode, 0)
            harness.wait_until(lambda: not service.clients(), 2, "the probes are gone from the statistics")


@unittest.skipUnless(os.path.isdir("/run/systemd/system") and os.geteuid() == 0, "needs a running systemd, as root")
class Hardening(unittest.TestCase):
    def test_the_probe_works_in_a_unit_hardened_like_ollamas(self):
        with harness.Service() as service:
            service.folder.chmod(0o755)
            service.socket.chmod(0o666)
            # The unit's own /tmp hides the service's folder: it is bound in, as /run is visible to the real unit.
            options = [f"--property={item}" for item in HARDENING + [f"BindReadOnlyPaths={service.folder}", "User=nobody"]]
            environment = [f"--setenv={key}={value}" for key, value in filtered(service).items()]
            found = subprocess.run(["systemd-run", "--wait", "--pipe", "--quiet", *options, *environment, str(PROBE)],
                                   text=True, timeout=60, check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.assertEqual(found.returncode, 0, found.stderr)


if __name__ == "__main__":
    unittest.main()
