#!/usr/bin/env python3
"""What the scheduler promises to real programs: priorities, time slices, limits, quarantine, pools of devices."""

import json
import time
import unittest

from harness import Service, become_subreaper, first_line, kernels_done, wait_until


def device_times(service, processes):
    rows = {row["pid"]: row["device_ns"] for row in service.clients()}
    return [rows[process.pid] for process in processes]


def used_in(service, processes, seconds):
    """Device time of each in a window of the given length, once all run."""
    for process in processes:
        first_line(process)
    time.sleep(0.7)
    before = device_times(service, processes)
    time.sleep(seconds)
    return [after - earlier for earlier, after in zip(before, device_times(service, processes))]


def finish(case, processes):
    for process in processes:
        output, _ = process.communicate(timeout=60)
        case.assertEqual(process.returncode, 0, output)


class Priorities(unittest.TestCase):
    CLASSES = {"default": {}, "high": {"priority": "high"}, "low": {"priority": "low"}}
    RULES = [("*/busy_shared", "high"), ("*/busy", "low")]

    def test_a_busy_high_class_leaves_the_low_one_only_its_aged_turns(self):
        with Service(classes=self.CLASSES, rules=self.RULES, extra="scheduler: {aging: 500ms}\n") as service:
            processes = [service.popen(name, "--seconds", 7, "--rounds", 20000) for name in ("busy_shared", "busy")]
            high, low = used_in(service, processes, 2)
            states = {row["program"]: row for row in service.clients()}
            finish(self, processes)
        self.assertGreater(low, 0, "the low class starves")
        self.assertLess(low, 0.15 * high, f"high {high}, low {low} ns")
        self.assertEqual({row["priority"] for row in states.values()}, {"high", "low"})
        self.assertGreater(max(row["gate_wait_ns"] for row in states.values()), 500e6)

    def test_the_low_class_has_what_the_high_one_leaves(self):
        with Service(classes=self.CLASSES, rules=self.RULES) as service:
            high = service.popen("busy_shared", "--seconds", 7, "--rounds", 20000, "--step", 2, "--pause-us", 50000)
            low = service.popen("busy", "--seconds", 7, "--rounds", 20000)
            of_high, of_low = used_in(service, [high, low], 2)
            finish(self, [high, low])
        self.assertGreater(of_low, 2 * of_high, f"high {of_high}, low {of_low} ns")


class Slices(unittest.TestCase):
    def test_exclusive_windows_are_shared_by_weight(self):
        classes = {"default": {}, "heavy": {"weight": 300}, "light": {"weight": 100}}
        with Service(classes=classes, rules=[("*/busy_shared", "heavy"), ("*/busy", "light")],
                     device="policy: time_slice") as service:
            processes = [service.popen(name, "--seconds", 8, "--rounds", 20000) for name in ("busy_shared", "busy")]
            heavy, light = used_in(service, processes, 4)
            device = json.loads(service.cli("devices", "--json").stdout)[0]
            finish(self, processes)
        self.assertEqual(device["policy"], "time_slice")
        self.assertGreater(device["switches"], 20)
        self.assertAlmostEqual(heavy / light, 3.0, delta=0.45, msg=f"{heavy} against {light} ns")

    def test_the_other_orders_serve_everybody(self):
        for policy in ("fifo", "deadline", "turns"):
            with Service(device=f"policy: {policy}", extra="scheduler: {aging: 100ms}\n") as service:
                processes = [service.popen("busy", "--seconds", 1.5, "--rounds", 20000) for _ in range(2)]
                finish(self, processes)


class Limits(unittest.TestCase):
    # Some seconds of device time in one kernel.
    ENDLESS = ("--seconds", 1, "--rounds", 2000000000, "--blocks", 1)

    def test_a_command_beyond_the_watchdog_ends_its_client_only(self):
        with Service(classes={"default": {}, "short": {"watchdog": "400ms"}},
                     rules=[("*/busy_shared", "short")]) as service:
            neighbour = service.popen("busy", "--seconds", 5)
            first_line(neighbour)
            began = time.monotonic()
            result = service.run("busy_shared", *self.ENDLESS)
            took = time.monotonic() - began
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("cudaErrorLaunchTimeout", result.stdout + result.stderr)
            self.assertLess(took, 10)
            # Many short kernels that take longer together are no offence.
            longer = service.run("busy_shared", "--seconds", 1.5, "--rounds", 20000)
            self.assertEqual(longer.returncode, 0, longer.stdout + longer.stderr)
            broker = json.loads(service.cli("stats", "--json").stdout)["broker"]
            self.assertEqual((broker["watchdog_kills"], broker["faults"]), (1, 1))
            finish(self, [neighbour])

    def test_faults_lead_to_quarantine_which_ends_by_itself(self):
        with Service(classes={"default": {"quarantine_after": 2, "quarantine_time": "3s"}}) as service:
            for _ in range(2):
                self.assertEqual(service.run("illegal_address").returncode, 0)
            wait_until(lambda: json.loads(service.cli("stats", "--json").stdout)["broker"]["quarantines"] == 1, 3,
                       "two faults are one too many")
            self.assertNotEqual(service.run("illegal_address").returncode, 0)
            self.assertEqual(service.run("vector_add").returncode, 0)  # another program
            wait_until(lambda: service.run("illegal_address").returncode == 0, 10, "the quarantine ends")
            broker = json.loads(service.cli("stats", "--json").stdout)["broker"]
            self.assertGreaterEqual(broker["refused_quarantined"], 1)

    def test_a_launch_rate_delays_and_refuses_nothing(self):
        with Service(classes={"default": {"launch_rate": 100}}) as service:
            process = service.popen("busy", "--seconds", 2, "--rounds", 10)
            output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, output)
        self.assertLess(kernels_done(output), 260)
        self.assertGreater(kernels_done(output), 50)

    def test_a_queue_depth_holds_back_and_refuses_nothing(self):
        with Service(classes={"default": {"queue_depth": 1}}) as service:
            for program in ("busy", "async_copies", "graphs"):
                arguments = ("--seconds", 1) if program == "busy" else ()
                result = service.run(program, *arguments)
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_a_bandwidth_is_kept(self):
        with Service(classes={"default": {"bandwidth": "2MiB"}}) as service:
            began = time.monotonic()
            result = service.run("busy", "--seconds", 0.2, "--blocks", 8192, "--rounds", 1)  # 4 MiB come back
            took = time.monotonic() - began
            row = json.loads(service.cli("stats", "--json", "--ended").stdout)["ended"][0]
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertGreater(took, 1.0)
        self.assertGreater(row["throttled_ns"], 0.8e9)

    def test_a_user_has_so_many_clients_of_a_class(self):
        with Service(classes={"default": {"max_clients_per_user": 1}}) as service:
            first = service.popen("busy", "--seconds", 2)
            first_line(first)
            self.assertNotEqual(service.run("vector_add").returncode, 0)
            row = service.stats()["rejections"][0]
            self.assertEqual((row["class"], row["reason"], row["program"]), ("default", "limit", "vector_add"))
            self.assertGreaterEqual(row["count"], 1)
            finish(self, [first])
            wait_until(lambda: service.run("vector_add").returncode == 0, 10, "there is room again")


class Pools(unittest.TestCase):
    def placed(self, service, program, **environment):
        process = service.popen(program, "--seconds", 20, env=service.environment(**environment))
        first_line(process)
        device = next(row["device"] for row in service.clients() if row["pid"] == process.pid)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return device

    def test_clients_go_where_rules_and_loads_say(self):
        extra = ("rules:\n  - {match: {executable: '*/busy_shared'}, class: default, pool: apart}\n"
                 "  - {match: {executable: '*/vector_add'}, class: default, device: second}\n")
        with Service(more_devices=["name: second", "name: third, pool: apart"], extra=extra, prestart=1) as service:
            service.wait_for_workers()
            devices = {row["name"]: row for row in json.loads(service.cli("devices", "--json").stdout)}
            self.assertEqual(len({row["uuid"] for row in devices.values()}), 3)
            self.assertEqual(self.placed(service, "busy"), "test")
            self.assertEqual(self.placed(service, "busy"), "second")  # the less loaded
            self.assertEqual(self.placed(service, "busy_shared"), "third")
            self.assertEqual(service.run("vector_add").returncode, 0)


if __name__ == "__main__":
    become_subreaper()
    unittest.main(verbosity=2)
