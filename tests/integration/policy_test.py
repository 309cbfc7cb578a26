#!/usr/bin/env python3
"""What live control makes of the policy: what a saved client gets at its next start, what a change of a rule keeps, what
holds beside the files, and that a change that is refused changes nothing."""

import json
import os
import subprocess
import unittest

import harness
from harness import BUILD, Service, first_line, wait_until

MEMBERS, USER = 60, 12345  # a group that Debian has (games), a user nobody is


class Base(unittest.TestCase):
    def serve(self, **options):
        service = Service(**options)
        self.addCleanup(service.__exit__, None)
        return service.start()

    def start(self, service, program="busy"):
        """Starts a client; its pid."""
        process = service.popen(program, "--seconds", 120, "--rounds", 200)
        self.addCleanup(process.wait)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        first_line(process)
        return process

    def row(self, service, process):
        return next(row for row in service.clients() if row["pid"] == process.pid)

    def next_start(self, service, process, program="busy"):
        """The client's row after it was started anew."""
        process.kill()
        process.wait()
        return self.row(service, self.start(service, program))

    def refused(self, service, *words, status=1):
        result = service.cli(*words, check=False)
        self.assertEqual(result.returncode, status, result)
        return result.stderr


class SavedClients(Base):
    def test_a_saved_client_keeps_what_its_rule_gives(self):
        service = self.serve(
            classes={"default": {}, "gold": {"weight": 400}},
            more_devices=("name: far, pool: far",),
            extra="rules: [{name: mine, match: {executable: '*/busy'}, class: gold, pool: far,"
                  " set: {memory_quota: 64MiB, launch_rate: 5000}}]\n")
        client = self.start(service)
        service.cli("set", "client", client.pid, "bandwidth=1GiB")
        said = service.cli("set", "client", client.pid, "weight=70", "--save").stdout
        self.assertIn("50-cli.yaml", said)
        expected = lambda row: [row[key] for key in ("class", "weight", "memory_quota", "device")]
        self.assertEqual(expected(self.row(service, client)), ["gold", 70, 64 << 20, "far"])
        self.assertEqual(expected(self.next_start(service, client)), ["gold", 70, 64 << 20, "far"])
        shown = service.cli("policy", "show").stdout
        saved = shown[shown.index("50-cli.yaml"):]
        for words in ("launch_rate: 5000", "bandwidth: 1GiB", "pool: far", "memory_quota: 64MiB"):
            self.assertIn(words, saved)
        # Again, over itself; a device takes the pool's place.
        client = self.start(service)
        self.assertIn("next start is placed on 'test'", service.cli(
            "set", "client", client.pid, "weight=60", "device=test", "--save").stdout)
        self.assertEqual(expected(self.row(service, client)), ["gold", 60, 64 << 20, "far"])
        self.assertEqual(expected(self.next_start(service, client)), ["gold", 60, 64 << 20, "test"])

    def test_a_saved_client_is_asked_before_earlier_saved_rules(self):
        service = self.serve(classes={"default": {}, "gold": {"weight": 400}})
        service.cli("set", "rule", "all", "match.executable=*/busy", "class=gold", "--save")
        client = self.start(service)
        service.cli("set", "client", client.pid, "weight=7", "--save")
        self.assertEqual(self.next_start(service, client)["weight"], 7)

    def test_what_would_not_decide_is_not_saved(self):
        service = self.serve(classes={"default": {}, "gold": {"weight": 400}})
        folder = service.config.with_suffix(".d")
        folder.mkdir()
        (folder / "90-last.yaml").write_text("rules: [{name: last, match: {executable: '*/busy'}, class: gold}]\n")
        service.cli("policy", "reload")
        client = self.start(service)
        self.assertIn("the rule 'last'", self.refused(service, "set", "client", client.pid, "weight=7", "--save"))
        self.assertEqual(self.row(service, client)["weight"], 400)
        self.assertFalse((folder / "50-cli.yaml").exists())
        (folder / "90-last.yaml").write_text("rules: [{name: last, match: {executable: '*/busy'}, reject: true}]\n")
        service.cli("policy", "reload")
        self.assertIn("refuses the next starts",
                      self.refused(service, "set", "client", client.pid, "weight=7", "--save"))
        # What is saved must be whole without what is not.
        service.cli("set", "class", "passing", "weight=3")
        self.assertIn("there is no class 'passing'",
                      self.refused(service, "set", "rule", "r", "match.uid=1", "class=passing", "--save"))


class Refusals(Base):
    def test_a_refused_change_changes_nothing(self):
        service = self.serve(more_devices=("name: far, pool: far",))
        client = self.start(service)
        for words in (("weight=7", "device=none"), ("weight=7", "device=far"), ("weight=7", "class=none"),
                      ("weight=7", "class="), ("weight=7", "device=none", "--save"), ("class=default", "weight=0")):
            with self.subTest(words):
                self.refused(service, "set", "client", client.pid, *words)
                self.assertEqual(self.row(service, client)["weight"], 100)
        self.assertFalse(service.config.with_suffix(".d").exists())
        # The file cannot be written: nothing holds.
        service.config.with_suffix(".d").write_text("in the way")
        self.refused(service, "set", "client", client.pid, "weight=7", "--save")
        self.refused(service, "set", "class", "default", "weight=7", "--save")
        self.assertEqual(self.row(service, client)["weight"], 100)

    def test_names_that_are_mistyped_make_nothing(self):
        service = self.serve(more_devices=("name: far, pool: far",))
        self.assertIn("there is test and far", self.refused(service, "set", "device", "tets", "prestart=1"))
        self.assertIn("there is test and far", self.refused(service, "set", "device", "", "prestart=1", "--save"))
        self.assertIn("name", self.refused(service, "set", "rule", "", "class=default"))
        self.assertNotIn("tets", service.cli("policy", "show").stdout)

    def test_what_needs_a_restart_is_said(self):
        service = self.serve(more_devices=("name: far, pool: far",))
        for words in (("device", "test", "pool=x"), ("device", "test", "policy=fifo"), ("scheduler", "quantum=2ms"),
                      ("device", "test", "oversubscribe.host_limit=64MiB"), ("limits", "control_connections=9")):
            with self.subTest(words):
                self.assertIn("by a restart only", self.refused(service, "set", *words))
        service.cli("set", "device", "test", "prestart=1")
        self.assertIn("device test pool holds after a restart",
                      service.cli("set", "device", "test", "pool=x", "--save").stdout)
        self.assertIn("no device before a restart",
                      self.refused(service, "set", "rule", "r", "match.uid=1", "class=default", "pool=x"))
        text = service.config.read_text()
        service.config.write_text(text.replace("pool: far", "pool: near") + "scheduler: {turn: 9ms}\nended_clients: 3\n")
        said = service.cli("policy", "reload").stdout
        self.assertIn("until a restart: scheduler turn, device test pool and device far pool", said)
        self.assertNotIn("ended_clients", said)

    def test_a_rule_keeps_the_conditions_that_are_not_named(self):
        service = self.serve(extra="rules: [{name: no-busy, match: {executable: '*/busy_shared'}, reject: true}]\n")
        service.cli("set", "rule", "no-busy", f"match.uid={os.getuid()}")
        self.assertEqual(service.run("vector_add").returncode, 0)
        self.assertNotEqual(service.run("busy_shared", "--seconds", 0.1).returncode, 0)
        service.cli("set", "rule", "no-busy", "match.executable=[]", "match.uid=54321")
        self.assertEqual(service.run("busy_shared", "--seconds", 0.1).returncode, 0)

    def test_a_wrong_command_line_is_status_2(self):
        service = self.serve()
        for words in (("set",), ("set", "client"), ("set", "class", "default", "weight"), ("pause", "me"), ("nonsense",),
                      ("stats", "--watch", "0"), ("quarantine", "--user", "root")):
            with self.subTest(words):
                self.refused(service, *words, status=2)
        bad = service.folder / "bad.yaml"
        bad.write_text("limits: {clints: 3}\n")
        self.assertIn("clints", self.refused(service, "policy", "check", bad, status=1))
        self.assertEqual(service.cli("policy", "check", service.config).returncode, 0)


class Files(Base):
    def test_what_holds_is_what_was_read(self):
        service = self.serve()
        folder = service.config.with_suffix(".d")
        client = self.start(service)
        service.config.write_text(service.config.read_text().replace("default: {}", "default: {weight: 3}"))
        folder.mkdir()
        (folder / "10-broken.yaml").write_text("limits: {clints: 3}\n")
        (folder / "20-pipe.yaml").symlink_to("/dev/zero")
        shown = service.cli("policy", "show").stdout
        self.assertNotIn("weight: 3", shown)
        for sentence in ("vgpud.yaml has changed since it was read", "10-broken.yaml is new", "20-pipe.yaml: cannot read"):
            self.assertIn(sentence, shown)
        service.cli("set", "limits", "clients=77")
        service.cli("set", "class", "default", "max_clients=9")
        self.assertEqual(self.row(service, client)["weight"], 100)
        # A saved change goes to its own file, and leaves there what somebody wrote meanwhile.
        (folder / "50-cli.yaml").write_text("ended_clients: 5\n")
        service.cli("set", "class", "default", "launch_rate=50000", "--save")
        self.assertIn("ended_clients: 5", (folder / "50-cli.yaml").read_text())
        shown = service.cli("policy", "show").stdout
        self.assertNotIn("ended_clients", shown)
        self.assertIn("launch_rate: 50000", shown)
        (folder / "10-broken.yaml").unlink()
        (folder / "20-pipe.yaml").unlink()
        service.cli("policy", "reload")
        self.assertEqual(self.row(service, client)["weight"], 3)
        shown = service.cli("policy", "show").stdout
        self.assertNotIn("not held", shown)
        self.assertIn("ended_clients: 5", shown)

    def test_a_file_that_is_no_text_is_an_error_and_holds_nobody_up(self):
        service = self.serve()
        folder = service.config.with_suffix(".d")
        folder.mkdir()
        os.mkfifo(folder / "10-pipe.yaml")
        (folder / "20-bytes.yaml").write_bytes(b"\xff\xfe\0")
        said = service.cli("policy", "check", check=False, timeout=10)
        self.assertEqual(said.returncode, 1)
        self.assertIn("10-pipe.yaml: cannot read the configuration: it is no regular file", said.stdout)
        self.assertIn("20-bytes.yaml: cannot read the configuration: it is not UTF-8 text", said.stdout)
        self.refused(service, "policy", "reload")
        self.assertEqual(service.run("vector_add").returncode, 0)


@unittest.skipUnless(os.geteuid() == 0, "becoming another user needs root")
class Owners(Base):
    def test_an_owner_is_asked_only_about_the_keys_that_he_names(self):
        service = Service(extra="group: games\n")
        os.chmod(service.folder, 0o711)
        self.addCleanup(service.__exit__, None)
        service.start()
        words = ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={MEMBERS}", "--inh-caps=-all"]
        client = subprocess.Popen([*words, harness.PROGRAMS / "busy", "--seconds", "60"], text=True,
                                  env=service.environment(), stdout=subprocess.PIPE)
        self.addCleanup(client.wait)
        self.addCleanup(client.stdout.close)
        self.addCleanup(client.kill)
        first_line(client)
        owner = lambda *settings: subprocess.run(
            [*words, BUILD / "bin" / "vgpud-cli", "set", "client", str(client.pid), *settings], text=True,
            env=service.environment(), capture_output=True, timeout=30, check=False)
        self.assertEqual(owner("weight=90").returncode, 0)
        service.cli("set", "client", client.pid, "weight=50")
        self.assertEqual(owner("launch_rate=100").returncode, 0)
        self.assertEqual(self.row(service, client)["weight"], 50)
        self.assertEqual(owner("weight=40", "launch_rate=0", "priority=high").returncode, 1)
        self.assertEqual(self.row(service, client)["weight"], 50)
        service.cli("set", "client", client.pid, "weight=200")
        self.assertEqual(self.row(service, client)["weight"], 90, "what he asked for holds again")


if __name__ == "__main__":
    harness.become_subreaper()
    unittest.main(verbosity=2)
