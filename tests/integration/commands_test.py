#!/usr/bin/env python3
"""Command lines that are wrong, and what cannot be written: said in a sentence, by the exit status, and nothing is done."""

import os
import socket
import subprocess
import tempfile
import unittest

import harness
from harness import BUILD, Service
from control_test import Client

USAGE = 2


class Commands(unittest.TestCase):
    def refused(self, service, status, *words):
        """Runs a command that must end with the status and print nothing but a sentence; returns that."""
        result = service.cli(*words, check=False)
        self.assertEqual(result.returncode, status, (words, result.stdout, result.stderr))
        self.assertEqual(result.stdout, "", words)
        self.assertTrue(result.stderr.strip(), words)
        return result.stderr

    def test_a_wrong_command_line_does_nothing(self):
        with Service() as service:
            client = Client(service)
            self.addCleanup(client.stop)
            self.assertIn("'abc'", self.refused(service, USAGE, "pause", client.pid, "abc"))
            self.assertEqual(client.row()["state"], "running")
            self.assertIn("'weight'", self.refused(service, USAGE, "set", "client", client.pid, "weight=5", "weight=6"))
            self.assertEqual(client.row()["weight"], 100)
            self.assertIn("--executable", self.refused(service, USAGE, "quarantine", client.pid, "--user", "nobody"))
            self.assertIn("--json", self.refused(service, USAGE, "quarantine", client.pid, "--json"))
            self.assertEqual(client.row()["state"], "running")

    def test_options_that_would_mean_nothing_are_refused(self):
        with Service() as service:
            self.assertIn("which program", self.refused(service, USAGE, "quarantine", "--for", "1h"))
            self.assertIn("which program", self.refused(service, USAGE, "quarantine", "--why", "it is slow"))
            self.assertIn("--standalone", self.refused(service, USAGE, "run", "--device", "cuda", "--", "/bin/true"))
            self.assertIn("--standalone", self.refused(service, USAGE, "verify", "--verbose", "--", "/bin/true"))
            self.assertIn("--json", self.refused(service, USAGE, "stats", "--calls"))

    def test_what_cannot_be_asked_is_said_in_a_sentence(self):
        with Service() as service:
            path = os.fsdecode(b"/tmp/\xff")
            self.assertIn("must be UTF-8 text", self.refused(service, 1, "quarantine", "--executable", path))
            for size in ("18446744073709551615", "2T", "8M", "17M"):
                self.assertIn("from 16 MiB to 1 TiB", self.refused(service, 1, "vm", "add", "one", "--size", size))

    def test_output_that_is_lost_is_a_failure(self):
        with Service() as service:
            for words in (("stats",), ("stats", "--json"), ("stats", "--watch", "0.1"), ("ps",), ("devices", "--json"),
                          ("policy", "show"), ("vm", "list"), ("quarantine",)):
                with self.subTest(words), open("/dev/full", "wb") as full:
                    result = subprocess.run([BUILD / "bin" / "vgpud-cli", *words], env=service.environment(),
                                            stdout=full, stderr=subprocess.PIPE, text=True, timeout=20, check=False)
                    self.assertEqual(result.returncode, 1, result.stderr)
                    self.assertIn("cannot be written", result.stderr)

    def test_a_name_is_not_set(self):
        with Service() as service:
            service.cli("set", "--save", "rule", "mine", "class=default", "match.uid=1")
            before = service.cli("policy", "show").stdout
            for words in (("rule", "mine", "name=other"), ("device", "test", "name=other", "prestart=1")):
                self.assertIn("'name'", self.refused(service, 1, "set", "--save", *words))
            self.assertEqual(service.cli("policy", "show").stdout, before)

    def test_checking_a_file_without_a_name_starts_no_vgpud(self):
        with tempfile.TemporaryDirectory() as folder:
            result = subprocess.run([BUILD / "bin" / "vgpud", "--check-config", "", "--socket", f"{folder}/s", "--control",
                                     f"{folder}/c"], capture_output=True, text=True, timeout=10, check=False)
        self.assertEqual(result.returncode, USAGE, result.stderr)
        self.assertIn("needs a name", result.stderr)

    def test_checking_a_file_without_a_name_does_not_check_others(self):
        with Service() as service:
            self.assertEqual(service.cli("policy", "check").stdout, "good\n")
            self.assertIn("needs a name", self.refused(service, USAGE, "policy", "check", ""))

    def test_too_many_askers_are_told_so(self):
        with Service(extra="limits: {control_connections: 2}\n") as service:
            others = [socket.socket(socket.AF_UNIX) for _ in range(2)]
            try:
                for other in others:
                    other.connect(str(service.control))
                # Whether the connection ends before or after the request is sent is vgpud's speed.
                for _ in range(5):
                    self.assertIn("too many vgpud-cli", self.refused(service, 1, "stats"))
            finally:
                for other in others:
                    other.close()


if __name__ == "__main__":
    harness.become_subreaper()
    unittest.main(verbosity=2)
