#!/usr/bin/env python3
"""Clients with several devices: what they see, that they compute right beside others, and what each device is charged."""

import json
import signal
import unittest

from harness import DEVICE_KIND, Service, become_subreaper, first_line, wait_until
from restarts import RestartableService
from visible_test import Placement

SECOND = ["name: second, ordinal: 1"]  # after "test"


software = unittest.skipUnless(DEVICE_KIND == "software", "needs three devices")


class Several(Placement):
    @software
    def test_a_list_gives_its_devices_in_its_order_and_nvml_has_them_too(self):
        with Service(more_devices=SECOND + ["name: third, ordinal: 2"], prestart=1) as service:
            uuids = self.devices(service)
            self.assertEqual(len(set(uuids.values())), 3)
            first, second, third = uuids["test"], uuids["second"], uuids["third"]
            cases = {"0,1": ([first, second], [first, second]), "1,0": ([second, first], [first, second]),
                     "2,0": ([third, first], [first, second, third]), "0,1,2": ([first, second, third],) * 2,
                     "0,7,1": ([first], [first]), f"{third},{first}": ([third, first],) * 2,
                     f"{second[:12]},{third[:12]}": ([second, third],) * 2}
            for visible, (cuda, nvml) in cases.items():
                seen = self.seen(service, visible=visible)
                self.assertEqual((seen["init"], seen["cuda"]), (0, cuda), visible)
                self.assertEqual(seen["nvml"], nvml, visible)
                self.assertEqual(self.seen(service, "--nvml-first", visible=visible)["nvml"], nvml, visible)
            self.assertEqual(len(self.seen(service)["cuda"]), 1, "who does not ask has one")
            seen = self.seen(service, "--set", "1,0", visible="0")
            self.assertEqual(seen["cuda"], [second, first], "the variable counts as it is at cuInit")

    @software
    def test_what_cannot_be_had_together_is_left_out_and_the_log_says_why(self):
        devices = SECOND + ["name: again, ordinal: 0", "name: mover, ordinal: 2, oversubscribe: {host_limit: 1GiB}"]
        classes = {"default": {}, "two": {"devices": 2}, "one": {"devices": 1}}
        with Service(more_devices=devices, prestart=1, classes=classes,
                     rules=[("*/busy", "one"), ("*/peers", "two")]) as service:
            uuids = self.devices(service)
            first, second = uuids["test"], uuids["second"]
            self.assertEqual(self.seen(service, visible="0,2,1")["cuda"], [first, second])
            self.assertIn("'again' is the same one in another guise", service.log_text())
            self.assertEqual(self.seen(service, visible="0,3,1")["cuda"], [first, second])
            self.assertIn("'mover' is oversubscribed", service.log_text())
            self.assertEqual(self.seen(service, visible="3,0")["cuda"], [uuids["mover"]])
            # The class bounds how many.
            result = service.run("busy", "--seconds", "0.1", env=service.environment(CUDA_VISIBLE_DEVICES="1,0"))
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(service.stats("--ended")["ended"][0]["device"], "second")
            self.assertIn("the class allows so many devices: 1", service.log_text())
            result = service.run("peers", env=service.environment(CUDA_VISIBLE_DEVICES="1,0"))
            self.assertEqual(result.returncode, 0, result.stderr)

    def test_peers_copy_and_order_their_work_as_natively(self):
        with Service(more_devices=SECOND, prestart=1) as service:
            for program in ("peers", "peers_shared"):
                for visible in ("0,1", "1,0", "0"):
                    result = service.run(program, env=service.environment(CUDA_VISIBLE_DEVICES=visible))
                    self.assertEqual((result.returncode, "peers: ok" in result.stdout), (0, True), result.stderr)
            self.assertEqual(service.stats()["broker"]["faults"], 0)

    def test_clients_on_overlapping_devices_compute_right_and_each_device_is_charged(self):
        with Service(more_devices=SECOND, prestart=2) as service:
            service.wait_for_workers()
            both = service.popen("busy_devices", "--seconds", 3, "--rounds", 20000,
                                 env=service.environment(CUDA_VISIBLE_DEVICES="0,1"))
            back = service.popen("busy_devices", "--seconds", 3, "--rounds", 20000,
                                 env=service.environment(CUDA_VISIBLE_DEVICES="1,0"))
            single = service.popen("busy", "--seconds", 3, "--rounds", 20000,
                                   env=service.environment(CUDA_VISIBLE_DEVICES="1"))
            for process in (both, back, single):
                first_line(process)

            def working():
                rows = {row["pid"]: row for row in service.clients()}
                parts = [row for process in (both, back) for row in rows[process.pid].get("devices", [])]
                return rows if parts and all(part["share"] > 0.02 for part in parts) else None
            rows = wait_until(working, 20, "each client uses each of its devices")
            self.assertEqual(rows[both.pid]["device"], "test,second")
            self.assertEqual([part["device"] for part in rows[back.pid]["devices"]], ["second", "test"])
            self.assertNotIn("devices", rows[single.pid])
            of_second = rows[both.pid]["devices"][1]["share"] + rows[back.pid]["devices"][0]["share"] \
                + rows[single.pid]["share"]
            of_first = rows[both.pid]["devices"][0]["share"] + rows[back.pid]["devices"][1]["share"]
            self.assertAlmostEqual(of_second, 1, delta=0.05)
            self.assertAlmostEqual(of_first, 1, delta=0.05)
            for process in (both, back, single):
                output, _ = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 0, output)
            ended = {row["pid"]: row for row in service.stats("--ended")["ended"]}
            devices = {row["name"]: row for row in service.stats()["devices"]}
            for name, clients in (("test", (both, back)), ("second", (both, back, single))):
                used = 0
                for process in clients:
                    row = ended[process.pid]
                    parts = row.get("devices") or [row]
                    used += next(part["device_ns"] for part in parts if part["device"] == name)
                self.assertEqual(devices[name]["clients_admitted"], len(clients))
                # A GPU does not say whose work it executed: what several claim is charged once.
                self.assertLess(devices[name]["charged_ns"] / used, 1.1)
                if DEVICE_KIND == "software":
                    self.assertGreater(devices[name]["charged_ns"] / used, 0.9)
            for process in (both, back):
                row = ended[process.pid]
                for key in ("launches", "device_ns", "memory_peak"):
                    self.assertEqual(row[key], sum(part[key] for part in row["devices"]), key)

    def test_the_quota_is_one_of_each_device(self):
        with Service(more_devices=SECOND, prestart=1, classes={"default": {"memory_quota": "64MiB"}}) as service:
            environment = service.environment(CUDA_VISIBLE_DEVICES="0,1")
            result = service.run("busy_devices", "--seconds", "0.1", "--memory-mb", 48, env=environment)
            self.assertEqual(result.returncode, 0, result.stderr)
            row = service.stats("--ended")["ended"][0]
            for part in row["devices"]:
                self.assertGreater(part["memory_peak"], 48 << 20)
            result = service.run("busy_devices", "--seconds", "0.1", "--memory-mb", 72, env=environment)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("OutOfMemory", result.stderr.replace("MemoryAllocation", "OutOfMemory"))

    def test_a_further_device_that_has_not_started_yet_is_waited_for(self):
        with Service(more_devices=SECOND, prestart=0) as service:
            self.assertEqual(len(self.seen(service, visible="0,1")["cuda"]), 2)

    def test_a_client_with_several_devices_ends_as_any_other(self):
        with Service(more_devices=SECOND, prestart=1) as service:
            process = service.popen("busy_devices", "--seconds", 30, env=service.environment(CUDA_VISIBLE_DEVICES="0,1"))
            first_line(process)
            process.kill()
            process.wait()
            wait_until(lambda: not service.clients(), 10, "its session has ended")
            result = service.run("peers", env=service.environment(CUDA_VISIBLE_DEVICES="0,1"))
            self.assertEqual(result.returncode, 0, result.stderr)
            shown = service.cli("stats", "--ended").stdout
            self.assertIn("test,second", shown)
            json.loads(service.cli("stats", "--json").stdout)

    def test_clients_go_on_when_vgpud_is_restarted(self):
        with RestartableService(more_devices=SECOND, prestart=1) as service:
            clients = [service.popen("busy_devices", "--seconds", 5, "--rounds", 20000,
                                     env=service.environment(CUDA_VISIBLE_DEVICES=visible)) for visible in ("0,1", "1,0")]
            wait_until(lambda: len([row for row in service.clients() if row["launches"] > 0]) == 2, 20, "both compute")
            for how in (signal.SIGTERM, signal.SIGKILL):
                before = {row["session"]: row for row in service.clients()}
                service.restart(how)
                after = {row["session"]: row for row in service.clients()}
                self.assertEqual(before.keys(), after.keys())
                for session, row in after.items():
                    self.assertEqual(row["worker_pid"], before[session]["worker_pid"])
                    self.assertGreaterEqual(row["device_ns"], before[session]["device_ns"])
            self.assertEqual(service.run("peers", env=service.environment(CUDA_VISIBLE_DEVICES="0,1")).returncode, 0)
            for client in clients:
                output, _ = client.communicate(timeout=30)
                self.assertEqual(client.returncode, 0, output)
                self.assertNotIn("kernels 0", output)
            wait_until(lambda: not service.clients(), 5, "the clients have gone")
            self.assertEqual(service.stats()["broker"]["faults"], 0)


if __name__ == "__main__":
    become_subreaper()
    unittest.main(verbosity=2)
