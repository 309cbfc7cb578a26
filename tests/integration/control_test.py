#!/usr/bin/env python3
"""What an operator and the owner of a client can change while it runs, and what outlives a restart."""

import json
import os
import socket
import subprocess
import time
import unittest

import harness
from harness import BUILD, Service, first_line, wait_until

MEMBERS, ADMINS, USER, OTHER = 60, 50, 12345, 12346  # groups that Debian has: games, staff; users nobody is


class Client:
    """A client that is busy until the test ends."""

    def __init__(self, service, program="busy"):
        self.service = service
        self.process = service.popen(program, "--seconds", 120, "--rounds", 200)
        first_line(self.process)
        self.pid = self.process.pid

    def row(self):
        return next((row for row in self.service.clients() if row["pid"] == self.pid), None)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Asker:
    """One connection to the control socket, so that a change's delay is not that of starting vgpud-cli."""

    def __init__(self, service):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(service.control))
        self.file = self.socket.makefile("rw")

    def ask(self, **request):
        self.file.write(json.dumps(request) + "\n")
        self.file.flush()
        return json.loads(self.file.readline())

    def close(self):
        self.file.close()
        self.socket.close()


class Live(unittest.TestCase):
    def setUp(self):
        self.service = Service(classes={"default": {}, "gold": {"weight": 400}}).start()
        self.addCleanup(self.service.__exit__, None)
        self.asker = Asker(self.service)
        self.addCleanup(self.asker.close)

    def client(self, program="busy"):
        client = Client(self.service, program)
        self.addCleanup(client.stop)
        return client

    def launches(self, client):
        answer = self.asker.ask(request="stats")
        return next(row["launches"] for row in answer["clients"] if row["pid"] == client.pid)

    def test_a_paused_client_stops_within_100_ms_and_goes_on_when_resumed(self):
        client = self.client()
        self.assertTrue(self.asker.ask(request="pause", pid=client.pid)["ok"])
        time.sleep(0.1)
        at_pause = self.launches(client)
        time.sleep(0.5)
        # The worker's look at its gate and what was submitted before, nothing more.
        self.assertLessEqual(self.launches(client) - at_pause, 1)
        self.assertEqual(client.row()["state"], "paused")
        self.assertIsNone(client.process.poll())
        self.service.cli("resume", client.pid)
        wait_until(lambda: self.launches(client) > at_pause + 1, 5, "it goes on")
        self.assertEqual(client.row()["state"], "running")

    def test_changes_apply_within_100_ms(self):
        client = self.client()

        def moments(request, effect):
            """From before the request is sent until its effect is seen, in seconds."""
            began = time.monotonic()
            self.assertTrue(self.asker.ask(pid=client.pid, **request)["ok"])
            wait_until(effect, 5, request)
            return time.monotonic() - began

        def figure(name):
            return next(row[name] for row in self.asker.ask(request="stats")["clients"] if row["pid"] == client.pid)

        def stands_still():
            before = figure("launches")
            time.sleep(0.02)  # many kernels long
            return figure("launches") == before

        taken = {"pause": [], "resume": [], "launch_rate": [], "unlimited": []}
        for _ in range(5):
            taken["pause"].append(moments({"request": "pause"}, stands_still))
            stopped = figure("launches")
            taken["resume"].append(moments({"request": "resume"}, lambda: figure("launches") > stopped))
            throttled = figure("throttled_ns")
            set_rate = lambda rate: {"request": "set", "target": "client", "settings": {"launch_rate": rate}}
            taken["launch_rate"].append(moments(set_rate("100"), lambda: figure("throttled_ns") > throttled))
            slow = figure("launches")
            taken["unlimited"].append(moments(set_rate("0"), lambda: figure("launches") > slow + 5))
        for change, times in taken.items():
            self.assertLess(sorted(times)[2], 0.1, f"{change}: the middle of {times}")

    def test_a_program_is_quarantined_and_released_by_hand(self):
        client, other = self.client(), self.client("busy_shared")
        self.service.cli("quarantine", client.pid, "--for", "1h", "--why", "it is too loud")
        self.assertEqual((client.row()["state"], other.row()["state"]), ("quarantined", "running"))
        time.sleep(0.1)
        at = self.launches(client)
        time.sleep(0.3)
        self.assertLessEqual(self.launches(client) - at, 1)
        refused = self.service.run("busy", "--seconds", 0.1, env=self.service.environment(VGPU_LOG="1"))
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("in quarantine: it is too loud", refused.stderr)
        listed = json.loads(self.service.cli("quarantine", "--json").stdout)
        path = str(harness.PROGRAMS / "busy")
        self.assertEqual([(row["executable"], row["uid"], row["why"]) for row in listed],
                         [(path, os.getuid(), "it is too loud")])
        self.assertLess(listed[0]["left_ns"], 3600e9)
        self.assertIn("it is too loud", self.service.cli("quarantine").stdout)
        self.service.cli("release", client.pid)
        wait_until(lambda: self.launches(client) > at + 1, 5, "it goes on")
        self.assertEqual(self.service.cli("quarantine").stdout, "nothing is in quarantine\n")
        # One that has no client, for a time.
        self.service.cli("quarantine", "--executable", harness.PROGRAMS / "vector_add", "--for", "700ms")
        self.assertNotEqual(self.service.run("vector_add").returncode, 0)
        wait_until(lambda: self.service.run("vector_add").returncode == 0, 10, "it is free by itself")
        broker = self.service.stats()["broker"]
        self.assertEqual(broker["quarantines"], 2)
        self.assertGreaterEqual(broker["refused_quarantined"], 2)
        for words, sentence in ((("quarantine", 1), "there is no client with pid 1"),
                                (("quarantine", client.pid, "--for", "ever"), "ever"),
                                (("quarantine", "--user", "root"), "which program?"),
                                (("quarantine", "--executable", "/x", "--user", "nobody-here"), "there is no user"),
                                (("quarantine", "--executable", "x"), "full path"),
                                (("release", client.pid), "is not in quarantine")):
            with self.subTest(words):
                result = self.service.cli(*words, check=False)
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertIn(sentence, result.stderr)

    def test_a_paused_client_holds_nobody_back(self):
        paused, other = self.client(), self.client("busy_shared")
        self.service.cli("pause", paused.pid)
        before = self.launches(other)
        wait_until(lambda: self.launches(other) > before + 3, 10, "the other runs")
        self.assertEqual(self.launches(paused), self.launches(paused))

    def test_a_weight_holds_at_once(self):
        heavy, light = self.client(), self.client("busy_shared")
        self.service.cli("set", "client", heavy.pid, "weight=400")
        self.assertEqual(heavy.row()["weight"], 400)
        used = lambda: [client.row()["device_ns"] for client in (heavy, light)]
        before = used()
        time.sleep(2)
        more = [after - earlier for earlier, after in zip(before, used())]
        self.assertGreater(more[0] / more[1], 2.5, more)

    def test_a_class_and_a_quota_hold_at_once(self):
        client = self.client()
        self.service.cli("set", "client", client.pid, "class=gold", "memory_quota=64MiB")
        row = client.row()
        self.assertEqual((row["class"], row["weight"], row["memory_quota"]), ("gold", 400, 64 << 20))
        self.service.cli("set", "class", "gold", "weight=500")
        self.assertEqual(client.row()["weight"], 500)
        self.service.cli("policy", "reload")
        self.assertEqual(client.row()["weight"], 400, "what was not saved is forgotten")

    def test_a_killed_client_gets_errors_and_no_hang(self):
        client = self.client()
        self.service.cli("kill", client.pid)
        output, _ = client.process.communicate(timeout=10)
        self.assertNotEqual(client.process.returncode, 0, output)
        ended = json.loads(self.service.cli("stats", "--json", "--ended").stdout)["ended"]
        self.assertIn("vgpud-cli kill", ended[0]["ending"])

    def test_what_is_wrong_is_said_and_changes_nothing(self):
        client = self.client()
        for words, sentence in ((("set", "client", client.pid, "wieght=3"), "unknown key 'wieght'"),
                                (("set", "client", client.pid, "weight=0"), "from 1 to 10000"),
                                (("set", "client", client.pid, "class=none"), "there is no class 'none'"),
                                (("set", "client", client.pid, "device=none"), "there is no device 'none'"),
                                (("set", "client", 1, "weight=3"), "there is no client with pid 1"),
                                (("set", "class", "default", "weight=many"), "must be a whole number"),
                                (("set", "rule", "r", "reject=maybe"), "must be true or false"),
                                (("set", "class", "default", "weight"), "is not KEY=VALUE"),
                                (("set", "universe", "a=b"), "there is no 'universe' to set"),
                                (("pause", "me"), "is no client")):
            with self.subTest(words):
                result = self.service.cli(*words, check=False)
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertIn(sentence, result.stderr)
        self.assertEqual(client.row()["weight"], 100)


class Saved(unittest.TestCase):
    def restart(self, service):
        service.stop()
        service.start()

    def test_saved_changes_survive_a_restart_and_the_file_stays_as_it_is(self):
        with Service(classes={"default": {}, "gold": {"weight": 400}}, extra="# my comment\n") as service:
            text = service.config.read_text()
            service.cli("set", "--save", "class", "default", "weight=70")
            service.cli("set", "class", "default", "max_clients=9")
            service.cli("set", "limits", "clients_per_user=33", "--save")
            client = Client(service)
            service.cli("set", "client", client.pid, "class=gold", "memory_quota=1GiB", "--save")
            client.stop()
            shown = service.cli("policy", "show").stdout
            self.assertIn("# my comment", shown)
            self.assertIn("changes that are not saved", shown)
            self.restart(service)
            self.assertEqual(service.config.read_text(), text)
            shown = service.cli("policy", "show").stdout
            self.assertIn("vgpud.d/50-cli.yaml", shown)
            self.assertNotIn("max_clients", shown)
            self.assertEqual(service.cli("policy", "check").stdout, "good\n")
            saved, plain = Client(service), Client(service, "busy_shared")
            try:
                row = saved.row()
                self.assertEqual((row["class"], row["memory_quota"]), ("gold", 1 << 30))
                self.assertEqual((plain.row()["class"], plain.row()["weight"]), ("default", 70))
            finally:
                saved.stop()
                plain.stop()

    def test_a_rule_can_be_made_changed_and_saved(self):
        with Service(classes={"default": {}, "gold": {"weight": 400}}) as service:
            client = Client(service)
            try:
                service.cli("set", "rule", "mine", "match.executable=[/nowhere, */busy]", "class=gold", "--save")
                self.assertEqual(client.row()["class"], "gold", "a rule holds for clients that are there")
                service.cli("set", "rule", "mine", "set.weight=7")
                self.assertEqual(client.row()["weight"], 7)
            finally:
                client.stop()
            self.restart(service)
            client = Client(service)
            try:
                self.assertEqual((client.row()["class"], client.row()["weight"]), ("gold", 400))
            finally:
                client.stop()

    def test_mistakes_of_files_are_found_before_a_reload(self):
        with Service() as service:
            drop_in = service.config.with_suffix(".d") / "10-mine.yaml"
            drop_in.parent.mkdir()
            drop_in.write_text("limits:\n  clints: 3\n")
            result = service.cli("policy", "check", check=False)
            self.assertEqual(result.returncode, 1)
            self.assertIn(f"{drop_in}:2:3: unknown key 'clints'", result.stdout)
            self.assertIn("10-mine.yaml:2:3", service.cli("policy", "check", service.config, check=False).stderr)
            self.assertIn("10-mine.yaml:2:3", service.cli("policy", "reload", check=False).stderr)
            self.assertEqual(service.run("vector_add").returncode, 0)


@unittest.skipUnless(os.geteuid() == 0, "becoming other users needs root")
class Permissions(unittest.TestCase):
    """vgpud runs as root here; its clients and askers are users who share nothing but the group."""

    def setUp(self):
        self.service = Service(extra=f"group: games\nadmin_group: staff\n")
        # Others must reach the sockets, and nothing else, in the folder.
        os.chmod(self.service.folder, 0o711)
        self.service.start()
        self.addCleanup(self.service.__exit__, None)

    def as_user(self, uid, *words, groups=(MEMBERS,)):
        return ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={','.join(map(str, groups))}", "--inh-caps=-all",
                *map(str, words)]

    def cli(self, uid, *words, groups=(MEMBERS,)):
        return subprocess.run(self.as_user(uid, BUILD / "bin" / "vgpud-cli", *words, groups=groups), text=True,
                              env=self.service.environment(), capture_output=True, timeout=30, check=False)

    def client(self, uid):
        process = subprocess.Popen(self.as_user(uid, harness.PROGRAMS / "busy", "--seconds", 60), text=True,
                                   env=self.service.environment(), stdout=subprocess.PIPE)
        first_line(process)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process.pid

    def row(self, pid):
        return next(row for row in self.service.clients() if row["pid"] == pid)

    def test_owners_may_pause_lower_and_kill_and_no_more(self):
        own, other = self.client(USER), self.client(OTHER)
        self.assertEqual(self.cli(USER, "pause", own).returncode, 0)
        self.assertEqual(self.row(own)["state"], "paused")
        self.assertEqual(self.cli(USER, "resume", own).returncode, 0)
        self.assertEqual(self.cli(USER, "set", "client", own, "weight=40").returncode, 0)
        self.assertEqual(self.row(own)["weight"], 40)
        self.assertEqual(self.cli(USER, "set", "client", own, "weight=100").returncode, 0, "back to what he was given")
        for words in (("set", "client", own, "weight=101"), ("set", "client", own, "class=default"),
                      ("set", "client", own, "max_clients=3"), ("set", "client", own, "weight=40", "--save"),
                      ("set", "client", own, "priority=high"), ("quarantine", own), ("release", own),
                      ("set", "class", "default", "weight=200"), ("policy", "show"), ("policy", "check"),
                      ("policy", "reload"), ("pause", other), ("kill", other), ("set", "client", other, "weight=1")):
            with self.subTest(words):
                result = self.cli(USER, *words)
                self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual((self.row(own)["weight"], self.row(other)["weight"]), (100, 100))
        self.assertEqual(self.row(other)["state"], "running")
        self.assertEqual(self.cli(USER, "kill", own).returncode, 0)
        self.assertEqual([row["pid"] for row in self.service.clients()], [other])

    def test_members_of_the_admin_group_may_do_all_and_owners_do_not_undo_it(self):
        pid = self.client(USER)
        admin = (MEMBERS, ADMINS)
        self.assertEqual(self.cli(USER, "set", "client", pid, "weight=90").returncode, 0)
        self.assertEqual(self.cli(OTHER, "set", "client", pid, "weight=50", groups=admin).returncode, 0)
        self.assertEqual(self.row(pid)["weight"], 50, "what an owner lowered does not lift what he is given")
        self.assertEqual(self.cli(USER, "set", "client", pid, "weight=60").returncode, 1)
        self.assertEqual(self.cli(OTHER, "pause", pid, groups=admin).returncode, 0)
        self.assertEqual(self.cli(USER, "resume", pid).returncode, 1)
        self.assertEqual(self.row(pid)["state"], "paused")
        self.assertEqual(self.cli(OTHER, "resume", pid, groups=admin).returncode, 0)
        self.assertIn("default", self.cli(OTHER, "policy", "show", groups=admin).stdout)
        seen = json.loads(self.cli(OTHER, "stats", "--json", groups=admin).stdout)["clients"]
        self.assertEqual([row["pid"] for row in seen], [pid])
        self.assertEqual(json.loads(self.cli(OTHER, "stats", "--json").stdout)["clients"], [])


if __name__ == "__main__":
    harness.become_subreaper()
    unittest.main(verbosity=2)
