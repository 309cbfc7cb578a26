#!/usr/bin/env python3
"""More memory than the device has: clients take turns on it, their results are right, nothing is left behind."""

import os
import re
import signal
import threading
import time
import unittest
from unittest import mock

from harness import Service, become_subreaper, first_line, is_zombie, shared_memory_kib, wait_until

MIB = 1 << 20
CARD = 32  # MiB, of the software GPU


def oversubscribed(host_limit="256MiB", stay="100ms", idle="50ms", reserve="none", **more):
    """A vgpud whose device is small and may be oversubscribed."""
    return Service(device=f"oversubscribe: {{host_limit: {host_limit}, minimum_residence: {stay}, idle_after: {idle}, "
                          f"reserve: {reserve}}}", **more)


class Watch(threading.Thread):
    """Looks at what lies on the device while a test runs."""

    def __init__(self, service):
        super().__init__(daemon=True)
        self.service, self.most, self.stopped = service, 0, threading.Event()
        self.start()

    def run(self):
        while not self.stopped.wait(0.02):
            self.most = max(self.most, sum(row["memory_on_device"] for row in self.service.clients()))

    def stop(self):
        self.stopped.set()
        self.join()


class Oversubscription(unittest.TestCase):
    def setUp(self):
        patch = mock.patch.dict(os.environ, {"SOFTGPU_MEMORY": f"{CARD}M"})
        patch.start()
        self.addCleanup(patch.stop)

    def finish(self, processes):
        for process in processes:
            output, _ = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0, output)

    def test_three_clients_of_60_percent_take_turns(self):
        # The host has room for two of them: the third must move in while another moves out.
        with oversubscribed(host_limit="50MiB", prestart=3) as service:
            service.wait_for_workers()
            processes = [service.popen(name, "--percent", 60, "--seconds", 1.5)
                         for name in ("oversub", "oversub_shared", "oversub")]
            for process in processes:
                first_line(process)
            watch = Watch(service)
            time.sleep(0.7)
            table = service.cli("stats").stdout
            self.finish(processes)
            watch.stop()
            stats = service.stats("--ended")
            device, ended = stats["devices"][0]["oversubscribe"], stats["ended"]
        self.assertLessEqual(watch.most, CARD * MIB)
        self.assertEqual(len(ended), 3)
        for row in ended:
            self.assertGreaterEqual(row["moves_in"], 1)
            self.assertIn(row["moves_out"] - row["moves_in"], (0, 1))  # perhaps once more at its end
            self.assertGreaterEqual(row["bytes_moved_out"], CARD * MIB / 2)
            self.assertGreater(row["move_out_ns"], 0)
            self.assertGreater(row["memory_wait_ns"], 2e8)
            # Thrash protection: a stay of 100 ms at least.
            self.assertLessEqual(row["moves_in"], 30)
        self.assertIn("IN HOST", table)
        self.assertEqual((device["capacity"], device["host_limit"]), (CARD * MIB, 50 * MIB))
        self.assertGreaterEqual(device["moves"], 3)

    def test_one_killed_while_it_is_moved_out_leaves_nothing(self):
        with oversubscribed() as service:
            service.wait_for_workers()
            before = shared_memory_kib()
            idle = service.popen("oversub", "--percent", 60, "--seconds", 0.2, "--idle", 60)
            first_line(idle)
            self.assertIn("idle", idle.stdout.readline())
            busy = service.popen("oversub_shared", "--percent", 60, "--seconds", 1.5)
            first_line(busy)
            row = wait_until(lambda: next((row for row in service.clients()
                                           if row["pid"] == idle.pid and row["moves_out"] == 1), None), 5, "it is out")
            self.assertEqual(row["memory_on_device"], 0)
            self.assertGreater(row["memory_in_host"], 0.5 * CARD * MIB)
            idle.kill()
            idle.communicate()
            wait_until(lambda: len(service.clients()) == 1, 5, "the killed client is gone")
            self.finish([busy])
            # All of the device is there for the next one.
            whole = service.popen("oversub", "--percent", 85, "--seconds", 0.2)
            self.finish([whole])
            wait_until(lambda: not service.clients(), 5, "all have gone")
            wait_until(lambda: shared_memory_kib() < before + 4096, 10, "the memory is the system's again")

    def test_an_idle_client_comes_back_to_what_it_had(self):
        with oversubscribed(stay="30s") as service:
            service.wait_for_workers()
            sleeper = service.popen("oversub", "--percent", 60, "--seconds", 0.4, "--idle", 1)
            first_line(sleeper)
            self.assertIn("idle", sleeper.stdout.readline())
            self.finish([service.popen("oversub", "--percent", 60, "--seconds", 0.2)])
            self.finish([sleeper])
            row = service.stats("--ended")["ended"][0]
        self.assertEqual((row["moves_out"], row["moves_in"]), (1, 1))

    def test_beyond_the_host_limit_memory_is_out(self):
        with oversubscribed(host_limit="16MiB") as service:
            service.wait_for_workers()
            first = service.popen("oversub", "--percent", 60, "--seconds", 1.5)
            first_line(first)
            second = service.run("oversub", "--percent", 60)
            self.assertNotEqual(second.returncode, 0)
            self.assertIn("bytes free", second.stderr)
            # What fits beside the first is given.
            beside = service.run("oversub", "--megabytes", 3, "--seconds", 0.1)
            self.assertEqual(beside.returncode, 0, beside.stderr)
            self.finish([first])

    def test_a_quota_holds_and_programs_of_all_kinds_run_between_moves(self):
        with oversubscribed(stay="10ms", idle="1ms", classes={"default": {}, "small": {"memory_quota": "16MiB"}},
                            rules=[("*/out_of_quota", "small")]) as service:
            service.wait_for_workers()
            hog = service.popen("oversub", "--percent", 55, "--seconds", 2.5)
            first_line(hog)
            for name in ("out_of_quota", "graphs", "streams_events", "async_copies", "symbols"):
                result = service.run(name, env=service.environment(VGPU_TEST_QUOTA_MB="16"))
                self.assertEqual(result.returncode, 0, name + ": " + result.stdout + result.stderr)
            self.finish([hog])
            row = {row["pid"]: row for row in service.stats("--ended")["ended"]}[hog.pid]
        self.assertGreaterEqual(row["moves_out"], 1)

    def test_copies_are_checked_as_on_any_other_device(self):
        with mock.patch.dict(os.environ, {"SOFTGPU_MEMORY": "128M"}), oversubscribed() as service:
            for name in ("pinned_copies", "copy_2d"):
                result = service.run(name)
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_host_memory_is_kept_ready_and_given_to_who_moves_out(self):
        # Whole chunks of 32 MiB are kept.
        with mock.patch.dict(os.environ, {"SOFTGPU_MEMORY": "128M"}), oversubscribed(
                host_limit="256MiB", reserve="192MiB", stay="30s",
                more_devices=["pool: other, oversubscribe: {host_limit: 64MiB, reserve: 32MiB}"]) as service:
            def held():
                state = service.stats()["broker"]["reserve"]
                return None if state["busy"] else state["held"] // MIB
            service.wait_for_workers()
            wait_until(lambda: held() == 224, 20, "all is held")
            self.assertEqual(service.stats()["broker"]["reserve"]["wanted"], 224 * MIB)
            self.assertGreater(service.stats()["broker"]["reserve"]["first_ns"], 0)
            self.assertIn("host memory is kept ready gib=0.22", service.log_text())
            sleeper = service.popen("oversub", "--megabytes", 70, "--seconds", 0.2, "--idle", 60)
            first_line(sleeper)
            self.assertIn("idle", sleeper.stdout.readline())
            self.finish([service.popen("oversub", "--megabytes", 70, "--seconds", 0.2)])
            row = {row["pid"]: row for row in service.clients()}[sleeper.pid]
            self.assertEqual(row["moves_out"], 1)
            wait_until(lambda: held() == 160, 5, "what it took is given back")
            sleeper.kill()
            sleeper.communicate()
            wait_until(lambda: held() == 224, 20, "what it had is held again")
            service.config.write_text(service.config.read_text().replace("reserve: 192MiB", "reserve: 191MiB"))
            self.assertIn("device test oversubscribe.reserve", service.cli("policy", "reload").stdout)
        with oversubscribed() as service:
            self.assertNotIn("reserve", service.stats()["broker"])

    def test_the_reserve_ends_with_vgpud(self):
        for end in (signal.SIGTERM, signal.SIGKILL):
            with oversubscribed(host_limit="2GiB", reserve="1GiB", prestart=0) as service:
                pid = int(re.search(r"to be kept ready gib=1.00 pid=(\d+)", service.log_text()).group(1))
                os.kill(pid, signal.SIGSTOP)
                service.process.send_signal(end)
                service.process.wait(10)
                service.process = None
                wait_until(lambda: is_zombie(pid), 5, "it ends with vgpud")


if __name__ == "__main__":
    become_subreaper()
    unittest.main()
