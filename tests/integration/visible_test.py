#!/usr/bin/env python3
"""CUDA_VISIBLE_DEVICES and pinned devices: programs run on the device that they and the policy name, and see no other."""

import json
import os
import pathlib
import subprocess
import sys
import unittest

from harness import PROGRAMS, Service, become_subreaper, first_line

SEEN = pathlib.Path(__file__).with_name("seen_devices.py")
NO_DEVICE = 100
DEVICES = ["name: second", "name: third, pool: apart", "name: fourth"]  # after "test"


class Placement(unittest.TestCase):
    def devices(self, service):
        """{name: UUID} of a service whose devices have told theirs."""
        service.wait_for_workers()
        return {row["name"]: row["uuid"] for row in json.loads(service.cli("devices", "--json").stdout)}

    def seen(self, service, *arguments, visible=None):
        more = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        result = service.run(sys.executable, SEEN, *arguments, env=service.environment(**more))
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def assert_sees(self, service, name, uuid, nvml, **how):
        seen = self.seen(service, **how)
        self.assertEqual((seen["init"], seen["cuda"]), (0, [uuid]), how)
        self.assertEqual(seen["nvml"], nvml, how)
        row = service.stats("--ended")["ended"][0]  # the newest
        self.assertEqual(row["device"], name, how)


class Visible(Placement):
    def test_a_client_sees_the_device_that_it_names_and_no_other(self):
        with Service(more_devices=DEVICES, prestart=1) as service:
            uuids = self.devices(service)
            self.assertEqual(len(set(uuids.values())), 4)
            pool = [uuids["test"], uuids["second"], uuids["fourth"]]
            # An index counts the devices of the client's pool, and is the same in NVML.
            for index, name in enumerate(("test", "second", "fourth")):
                for visible in (f"{index}", f" {index}", f"{index},", f"{index},7", f"{index},-1,{index}", f"{index}x"):
                    self.assert_sees(service, name, pool[index], pool[:index + 1], visible=visible)
            for name in ("test", "second", "fourth"):
                whole = uuids[name]
                self.assert_sees(service, name, whole, [whole], visible=whole)
                self.assert_sees(service, name, whole, [whole], visible=f"{whole},{uuids['test']}x")
            # The software GPUs of one machine differ in the last digits only.
            self.assert_sees(service, "test", pool[0], pool[:1], visible="0,1,2")
            hiding = ["", " ", "-1", "-1,0", "3", "99999999999999999999", "none", "0,0", uuids["third"], "GPU-",
                      pool[0][:-2] + "zz", pool[0][:-4], "MIG-" + pool[0][4:], "x" * 5000]
            for visible in hiding:
                seen = self.seen(service, visible=visible)
                self.assertEqual((seen["init"], seen["cuda"]), (NO_DEVICE, []), repr(visible))
                self.assertEqual(len(seen["nvml"]), 1, f"NVML hides nothing, {visible!r}")
            # What hides everything by itself is not brought before vgpud.
            rows = service.stats()["rejections"]
            self.assertEqual([(row["uid"], row["class"], row["reason"], row["count"]) for row in rows],
                             [(os.getuid(), "default", "device", 5)])
            self.assertIn("CUDA_VISIBLE_DEVICES", rows[0]["sentence"])

    def test_a_uuid_may_be_shortened_where_it_fits_one_device(self):
        with Service(more_devices=["name: third, pool: apart"], prestart=1) as service:
            uuids = self.devices(service)
            for beginning in (uuids["test"][:5], uuids["test"][:12], uuids["test"][:-1]):
                self.assert_sees(service, "test", uuids["test"], [uuids["test"]], visible=beginning)

    def test_the_variable_counts_as_it_is_at_cuinit(self):
        with Service(more_devices=DEVICES, prestart=1) as service:
            uuids = self.devices(service)
            for before in (None, "0", "2"):
                seen = self.seen(service, "--set", "1", visible=before)
                self.assertEqual((seen["init"], seen["cuda"]), (0, [uuids["second"]]))
                seen = self.seen(service, "--set", "1", "--fork", visible=before)
                self.assertEqual((seen["init"], seen["cuda"]), (0, [uuids["second"]]), "a child forked before cuInit")
            seen = self.seen(service, "--set", "", visible="1")
            self.assertEqual(seen["init"], NO_DEVICE)
            self.assertEqual(service.clients(), [])

    def test_clients_run_at_once_on_the_devices_that_they_name(self):
        with Service(more_devices=DEVICES, prestart=1) as service:
            uuids = self.devices(service)
            wanted = {"fourth": "2", "second": uuids["second"], "test": "0,1"}
            running = {name: service.popen("busy", "--seconds", 2, env=service.environment(CUDA_VISIBLE_DEVICES=visible))
                       for name, visible in wanted.items()}
            for process in running.values():
                first_line(process)
            rows = {row["pid"]: row for row in service.clients()}
            for name, process in running.items():
                self.assertEqual(rows[process.pid]["device"], name)
            for process in running.values():
                output, _ = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 0, output)
            admitted = {row["name"]: row["clients_admitted"] for row in service.stats()["devices"]}
            self.assertEqual(admitted, {"test": 1, "second": 1, "third": 0, "fourth": 1})
            for row in service.stats("--ended")["ended"]:
                self.assertGreater(row["kernel_ns"], 0, row["device"])

    def test_a_uuid_finds_a_device_that_has_not_started_yet(self):
        with Service(more_devices=DEVICES, prestart=1) as service:
            uuids = self.devices(service)
        with Service(more_devices=DEVICES, prestart=0) as service:
            self.assert_sees(service, "fourth", uuids["fourth"], [uuids["fourth"]], visible=uuids["fourth"])
        with Service(more_devices=DEVICES, prestart=0) as service:
            self.assertEqual(self.seen(service, visible=uuids["third"])["init"], NO_DEVICE)
            self.assertEqual(self.seen(service, visible="GPU-0")["init"], NO_DEVICE)
            self.assert_sees(service, "test", uuids["test"], [uuids["test"]], visible=uuids["test"])

    def test_vgpud_cli_passes_the_variable_on_and_shows_what_it_can_name(self):
        with Service(more_devices=DEVICES, prestart=1) as service:
            uuids = self.devices(service)
            table = service.cli("devices").stdout.splitlines()
            self.assertEqual(table[0].split()[:4], ["NAME", "POOL", "INDEX", "UUID"])
            self.assertEqual([row.split()[:4] for row in table[1:]],
                             [["test", "default", "0", uuids["test"]], ["second", "default", "1", uuids["second"]],
                              ["third", "apart", "0", uuids["third"]], ["fourth", "default", "2", uuids["fourth"]]])
            second = service.environment(CUDA_VISIBLE_DEVICES="1")
            ran = json.loads(service.cli("run", "--", sys.executable, SEEN, env=second).stdout)
            self.assertEqual(ran["cuda"], [uuids["second"]])
            self.assertIn("admitted to device second",
                          service.cli("verify", "--", PROGRAMS / "vector_add", env=second).stdout)
            hidden = service.cli("verify", "--", PROGRAMS / "vector_add", check=False,
                                 env=service.environment(CUDA_VISIBLE_DEVICES="-1")).stdout
            self.assertIn("NOT VERIFIED: CUDA_VISIBLE_DEVICES hides every device", hidden)


class Pinned(Placement):
    EXTRA = ("rules:\n  - {match: {executable: '*/busy'}, class: default, device: second}\n"
             "  - {match: {executable: '*/python*'}, class: default, pool: apart}\n")

    def test_a_rule_pins_its_clients_whatever_they_name(self):
        extra = self.EXTRA.replace("pool: apart", "device: second")
        with Service(more_devices=DEVICES, extra=extra, prestart=1) as service:
            uuids = self.devices(service)
            own = [uuids["second"]]
            for visible in (None, "0", "0,1", uuids["second"]):
                self.assert_sees(service, "second", uuids["second"], own, visible=visible)
            for visible in ("1", uuids["test"], "-1"):
                seen = self.seen(service, visible=visible)
                self.assertEqual((seen["init"], seen["nvml"]), (NO_DEVICE, own), visible)

    def test_an_index_counts_the_pool_of_the_rule(self):
        with Service(more_devices=DEVICES + ["name: fifth, pool: apart"], extra=self.EXTRA, prestart=1) as service:
            uuids = self.devices(service)
            apart = [uuids["third"], uuids["fifth"]]
            self.assert_sees(service, "third", apart[0], apart[:1], visible="0")
            self.assert_sees(service, "fifth", apart[1], apart, visible="1")
            self.assertEqual(self.seen(service, visible="2")["init"], NO_DEVICE)
            self.assertEqual(self.seen(service, visible=uuids["test"])["init"], NO_DEVICE)

    def test_a_change_of_the_policy_pins_the_next_start(self):
        with Service(more_devices=DEVICES, prestart=1) as service:
            uuids = self.devices(service)
            self.assert_sees(service, "second", uuids["second"], [uuids["test"], uuids["second"]], visible="1")
            service.cli("set", "rule", "pinned", "match.executable=*/python*", "class=default", "device=fourth")
            self.assertEqual(self.seen(service, visible="1")["init"], NO_DEVICE)
            self.assert_sees(service, "fourth", uuids["fourth"], [uuids["fourth"]], visible="0")
            self.assert_sees(service, "fourth", uuids["fourth"], [uuids["fourth"]])

    def test_both_libraries_name_one_device_to_a_client_without_a_wish(self):
        with Service(more_devices=DEVICES, prestart=1) as service:
            self.devices(service)
            for arguments in ((), ("--nvml-first",)):
                seen = self.seen(service, *arguments)
                self.assertEqual(len(seen["cuda"]), 1)
                self.assertEqual(seen["cuda"], seen["nvml"])

    def test_the_device_that_nvml_named_first_is_kept_whatever_comes_between(self):
        with Service(more_devices=["name: second", "name: third"], prestart=1) as service:
            self.devices(service)
            early = [service.popen(sys.executable, SEEN, "--nvml-first", "--wait", stdin=subprocess.PIPE)]
            first_line(early[0])
            early.append(service.popen(sys.executable, SEEN, "--nvml-first", "--wait", stdin=subprocess.PIPE))
            first_line(early[1])
            others = [service.popen("busy", "--seconds", 20) for _ in range(2)]
            for process in others:
                first_line(process)
            seen = [json.loads(process.communicate("go\n", timeout=60)[0]) for process in early]
            for process in others:
                process.kill()
                process.communicate()
        for each in seen:
            self.assertEqual(each["cuda"], each["nvml"])
        self.assertNotEqual(seen[0]["cuda"], seen[1]["cuda"], "what was promised counts as load")


if __name__ == "__main__":
    become_subreaper()
    unittest.main(verbosity=2)
