#!/usr/bin/env python3
"""What an operator and the owner of a client can change while it runs, and what outlives a restart."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import unittest
import urllib.request

import harness
from harness import BUILD, Service, first_line, wait_until

MEMBERS, ADMINS, USER, OTHER = 60, 50, 12345, 12346  # groups that Debian has: games, staff; users nobody is


NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf'({NAME})(?:\{{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*",?)*)\}})? (\S+)')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def parse_exposition(page):
    """Prometheus' text format 0.0.4, strictly: {family: (type, [(sample's name, {label: value}, value)])}. Raises
    AssertionError where a line is not of the format, a family stands in two places or a series comes twice."""
    def check(condition, line):
        if not condition:
            raise AssertionError(f"not of the text format: {line!r}")

    families, seen, family = {}, set(), None
    check(page.endswith("\n"), page[-80:])
    for line in page[:-1].split("\n"):
        if line.startswith("#"):
            _, word, name, rest = line.split(" ", 3)
            check(re.fullmatch(NAME, name), line)
            if word == "HELP":
                check(name not in families and rest, line)
                family = name
                families[name] = (None, [])
            else:
                check(word == "TYPE" and name == family and families[name][0] is None, line)
                check(rest in ("counter", "gauge", "histogram"), line)
                families[name] = (rest, [])
            continue
        match = SAMPLE.fullmatch(line)
        check(match and family, line)
        name, labels, value = match[1], dict(LABEL.findall(match[2] or "")), float(match[3])
        kind, samples = families[family]
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        check(name in [family + suffix for suffix in suffixes], line)
        series = (name, tuple(sorted(labels.items())))
        check(series not in seen, line)
        seen.add(series)
        samples.append((name, labels, value))
    return families


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

    def test_a_number_that_is_none_names_nobody(self):
        client = self.client()
        session = client.row()["session"]
        for wrong in ({"pid": client.pid + 2**32}, {"pid": client.pid + 0.5}, {"pid": str(client.pid)}, {"pid": -1},
                      {"session": session + 0.5}, {"session": session - 2**64}, {"session": True}):
            answer = self.asker.ask(request="kill", **wrong)
            self.assertFalse(answer["ok"], wrong)
            self.assertTrue(answer["error"], wrong)
        for wrong in ({"slots": 2**32 + 1}, {"slots": -1}, {"bytes": 2**64}, {"bytes": 1.5}):
            self.assertFalse(self.asker.ask(request="vm_add", name="odd", **wrong)["ok"], wrong)
        self.assertFalse(self.asker.ask(request="release", executable="/bin/true", uid=-5)["ok"])
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
                self.assertEqual(result.returncode, 2 if sentence in ("which program?", "there is no user") else 1)
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

        def ratio():
            before = used()
            time.sleep(1)
            more = [after - earlier for earlier, after in zip(before, used())]
            return more[0] / max(more[1], 1)

        # On a loaded machine a worker does not always have its next kernel ready, so not every second shows it.
        wait_until(lambda: ratio() > 2.5, 15, "four times the weight gets far more than half")

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
                self.assertEqual(result.returncode, 2 if sentence in ("is not KEY=VALUE", "is no client") else 1)
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


class Terminal:
    """vgpud-cli in a terminal of its own (tmux, a server of this test's own)."""

    def __init__(self, service, *words):
        self.service = service
        self.socket = service.folder / "tmux"
        # A shell tells how it ended: tmux 3.3 now and then never waits for a child that has ended.
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", "150", "-y", "20", "sh", "-c",
                  '"$0" "$@"; echo "ended with $?"; exec sleep 60', BUILD / "bin" / "vgpud-cli", *words)

    def tmux(self, *words):
        environment = {**self.service.environment(), "LC_ALL": "C.UTF-8", "TERM": "xterm"}
        environment.pop("LD_LIBRARY_PATH")
        return subprocess.run(["tmux", "-S", self.socket, *map(str, words)], env=environment, text=True, check=True,
                              timeout=20, capture_output=True).stdout

    def text(self):
        return self.tmux("capture-pane", "-p")

    def keys(self, *keys):
        self.tmux("send-keys", *keys)

    def shows(self, text, timeout=10):
        try:
            wait_until(lambda: text in self.text(), timeout, f"'{text}' is shown")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.text()}") from None

    def close(self):
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], check=False, capture_output=True)


@unittest.skipUnless(shutil.which("tmux"), "needs tmux")
class Top(unittest.TestCase):
    def test_top_refreshes_sorts_and_acts(self):
        with Service(classes={"default": {}, "gold": {"weight": 400}}) as service:
            first, second = Client(service), Client(service, "busy_shared")
            terminal = Terminal(service, "top", "--period", "0.2")
            try:
                terminal.shows("busy_shared")
                terminal.shows("2 clients now")
                terminal.keys("P", "Home")  # by pid, the first of them
                lowest = min(first.pid, second.pid)
                rows = lambda: [line.split() for line in terminal.text().splitlines() if " busy" in line and "gpu" not in
                                line.split()[0] and line.split()[0].isdigit()]
                wait_until(lambda: rows() and rows()[0][0] == str(lowest), 5, "sorted by pid")
                terminal.keys("p")
                terminal.shows("paused")
                wait_until(lambda: [row["state"] for row in service.clients() if row["pid"] == lowest] == ["paused"], 5, "paused")
                terminal.keys("r")
                wait_until(lambda: "paused" not in terminal.text(), 5, "resumed")
                terminal.keys("w", "7", "7", "Enter")
                wait_until(lambda: [row["weight"] for row in service.clients() if row["pid"] == lowest] == [77], 5, "weight")
                terminal.keys("c", *"none", "Enter")
                terminal.shows("there is no class 'none'")
                terminal.keys("z", "1", "h", "Enter")
                terminal.shows("quarantined")
                self.assertEqual(len(json.loads(service.cli("quarantine", "--json").stdout)), 1)
                terminal.keys("u")
                wait_until(lambda: "quarantined" not in terminal.text(), 5, "released")
                terminal.keys("k", "y")
                terminal.shows("1 clients now")
                self.assertEqual([row["pid"] for row in service.clients()], [max(first.pid, second.pid)])
                terminal.tmux("resize-window", "-x", "60", "-y", "8")
                terminal.shows("PROGRAM")
                terminal.keys("?")
                terminal.shows("choose a client")
                terminal.keys("q", "q")
                terminal.shows("ended with 0")
            finally:
                terminal.close()
                first.stop()
                second.stop()

    def test_top_says_that_it_needs_a_terminal_and_a_vgpud(self):
        with Service() as service:
            result = service.cli("top", check=False)
            self.assertEqual(result.returncode, 1)
            self.assertIn("needs a terminal", result.stderr)
            self.assertEqual(service.cli("--control", "/nonexistent", "top", check=False).returncode, 3)


class Metrics(unittest.TestCase):
    """vgpud-metrics, started as systemd starts it: with a listening socket."""

    def start(self, service):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listener.close)
        # LISTEN_PID must be the program's own pid: a shell sets it and becomes the program.
        script = 'exec 3<&%d; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" --control "$1"' % self.listener.fileno()
        process = subprocess.Popen(["bash", "-c", script, BUILD / "bin" / "vgpud-metrics", service.control],
                                   pass_fds=[self.listener.fileno()])
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)

    def page(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.listener.getsockname()[1]}/metrics", timeout=10) as answer:
            return answer.read().decode()

    @staticmethod
    def value(page, name):
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.split("{")[0].split(" ")[0] == name)

    def test_figures_are_those_of_stats_and_grow(self):
        with Service() as service:
            self.start(service)
            client = Client(service)
            try:
                page = self.page()
                row = client.row()
                self.assertEqual(self.value(page, "vgpud_up"), 1)
                self.assertEqual(self.value(page, "vgpud_clients"), 1)
                self.assertIn(f'pid="{client.pid}"', page)
                self.assertLessEqual(self.value(page, "vgpud_client_gpu_seconds_total"), row["device_ns"] / 1e9)
                self.assertGreater(self.value(page, "vgpud_client_call_latency_seconds_count"), 0)
                wait_until(lambda: self.value(self.page(), "vgpud_client_gpu_seconds_total") >
                           self.value(page, "vgpud_client_gpu_seconds_total"), 5, "GPU time grows")
            finally:
                client.stop()

    def test_the_page_is_of_the_text_format_and_follows_its_conventions(self):
        with Service() as service:
            self.start(service)
            hostile = service.folder / 'a"b\\c\nd'
            shutil.copy(harness.PROGRAMS / "busy", hostile)
            clients = [Client(service), Client(service, str(hostile))]
            try:
                families = parse_exposition(self.page())
            finally:
                for client in clients:
                    client.stop()
        programs = {labels["program"] for _, labels, _ in families["vgpud_client_weight"][1]}
        self.assertEqual(programs, {"busy", r'a\"b\\c\nd'})
        for name, (kind, samples) in families.items():
            with self.subTest(name):
                self.assertTrue(samples)
                self.assertEqual(kind == "counter", name.endswith("_total"))
                self.assertTrue(name.startswith("vgpud_"))
                if kind != "histogram":
                    continue
                series = {}
                for sample, labels, value in samples:
                    bound = labels.pop("le", None)
                    series.setdefault(tuple(labels.items()), []).append((sample[len(name):], bound, value))
                for points in series.values():
                    buckets = [(float(bound), value) for suffix, bound, value in points if suffix == "_bucket"]
                    self.assertEqual(buckets, sorted(buckets), "bounds and counts rise")
                    self.assertEqual(buckets, sorted(buckets, key=lambda bucket: bucket[1]))
                    rest = {suffix: value for suffix, bound, value in points if bound is None}
                    self.assertEqual(buckets[-1], (float("inf"), rest["_count"]))
                    self.assertGreaterEqual(rest["_sum"], 0)

    def test_waiting_for_a_turn_is_counted_by_client_and_by_device(self):
        with Service() as service:
            self.start(service)
            clients = [Client(service), Client(service, "busy_shared")]
            try:
                waits = lambda row: row["wait_p99_ns"] > 0 and row["turns"] > 0
                wait_until(lambda: all(map(waits, service.clients())), 10, "both have waited for their turn")
                families = parse_exposition(self.page())
                stats = service.stats()
            finally:
                for client in clients:
                    client.stop()
            for row in stats["clients"] + stats["devices"]:
                self.assertLessEqual(row["wait_p50_ns"], row["wait_p95_ns"])
                self.assertLessEqual(row["wait_p95_ns"], row["wait_p99_ns"])
                self.assertLessEqual(row["latency_p50_ns"], row["latency_p99_ns"])
            total = lambda name, suffix: sum(value for sample, _, value in families[name][1] if sample == name + suffix)
            for suffix in ("_count", "_sum"):
                self.assertGreater(total("vgpud_client_wait_seconds", suffix), 0)
                self.assertAlmostEqual(total("vgpud_client_wait_seconds", suffix), total("vgpud_device_wait_seconds", suffix),
                                       delta=0.5 * total("vgpud_device_wait_seconds", suffix))
            self.assertGreater(total("vgpud_device_switches_total", ""), 0)
            device = service.stats()["devices"][0]
            ended = sum(row["device_ns"] for row in service.stats()["ended"])
            self.assertAlmostEqual(device["device_ns"], ended, delta=0.01 * ended)
            self.assertLessEqual(device["charged_ns"], 1.01 * ended)
            self.assertEqual((device["clients_admitted"], device["faults"]), (2, 0))

    def test_faults_and_refusals_are_counted(self):
        with Service(classes={"default": {"max_clients": 1}}) as service:
            self.start(service)
            faulty = service.run("illegal_address")
            self.assertEqual(faulty.returncode, 0, faulty.stderr)
            client = Client(service)
            try:
                self.assertNotEqual(service.run("vector_add").returncode, 0)
                page = self.page()
                refused = service.stats()["broker"]["clients_refused"]
            finally:
                client.stop()
            self.assertGreaterEqual(refused, 1)
            row = next(row for row in service.stats()["ended"] if row["program"] == "illegal_address")
            self.assertEqual(row["faults"], 1)
            for name, value in (("vgpud_faults_total", 1), ("vgpud_device_faults_total", 1),
                                ("vgpud_clients_refused_total", refused), ("vgpud_clients_refused_by_limits_total", refused),
                                ("vgpud_device_clients_refused_total", refused),
                                ("vgpud_clients_admitted_total", 2), ("vgpud_device_clients_admitted_total", 2)):
                self.assertEqual(self.value(page, name), value, name)

    def test_a_vgpud_that_is_gone_is_said_and_one_that_is_back_is_asked_again(self):
        with Service() as service:
            self.start(service)
            self.assertEqual(self.value(self.page(), "vgpud_up"), 1)
            service.stop()
            self.assertEqual(self.page().splitlines()[-1], "vgpud_up 0")
            service.start()
            self.assertEqual(self.value(self.page(), "vgpud_up"), 1)


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
