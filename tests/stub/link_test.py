#!/usr/bin/env python3
"""The link between a guest and its host: what is said and counted, that two processes run at once, and every fault."""

import json
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import pathlib
import time
import unittest

from link import Guest, Host, Link, harness, memory_folder
from harness import first_line, wait_until

FUNCTION = "bus/pci/devices/0000:00:05.0"
GRAB = pathlib.Path(__file__).resolve().parent / "grab.py"


def kill(service):
    """SIGKILL to a vgpud; its workers and links go with it."""
    children = harness.descendants(service.process.pid)
    service.process.kill()
    service.process.wait()
    service.process = None
    wait_until(lambda: all(harness.is_zombie(child) for child in children), 10, "its processes end with vgpud")


class Loud(unittest.TestCase):
    def test_each_step_is_logged_once_and_counted_on_both_sides(self):
        with Link() as link:
            result = link.guest.cli("verify", "--", harness.PROGRAMS / "vector_add", check=False)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            self.assertRegex(result.stdout, r"sent to the host +[1-9]\d* records, [1-9]\d* doorbells rung")
            guest, host = link.guest.log_text(), link.host.log_text()
            for text, log in (("VGPU-STUB found function=", guest), ("connected to the host's vgpud", guest),
                              ("first doorbell rung function=", guest), ("the host answers: it has received", guest),
                              ("first doorbell of a VM vm=vm1", host), ("guest attached vm=vm1", host)):
                self.assertEqual(log.count(text), 1, f"{text!r} in\n{log}")
            self.assertGreater(link.host.vms()["vm1"]["doorbells"], 0)
            device = link.guest.row()
            self.assertEqual(device["kind"], "stub")
            self.assertTrue(device["link"]["connected"])
            ended = json.loads(link.guest.cli("stats", "--json").stdout)["ended"]
            self.assertGreater(ended[0]["link_records"], 10)
            self.assertGreater(ended[0]["link_doorbells"], 0)
            self.assertGreater(ended[0]["kernel_ns"], 0)
            self.assertRegex(link.guest.cli("stats", "--ended").stdout, r"TO HOST +DOORBELLS +BYTES OUT(.*\n)+.*vector_add +[1-9]")

    def test_two_processes_at_once_and_the_host_knows_them(self):
        with Link(prestart=2) as link:
            programs = [link.guest.popen("busy", "--seconds", 3), link.guest.popen("nbody", "--seconds", 3)]
            pids = {program.pid for program in programs}

            def host_rows():
                return {row["guest_pid"]: row for row in link.host.clients() if row["launches"] > 0}

            rows = wait_until(lambda: pids <= set(host_rows()) and host_rows(), 10, "the host shows both processes")
            self.assertEqual({rows[pid]["vm"] for pid in pids}, {"vm1"})
            self.assertEqual(len({rows[pid]["worker_pid"] for pid in pids}), 2)
            # The VM's line, then those of its processes.
            self.assertRegex(link.host.cli("stats").stdout, r"(?m)^VM +vm1 .* attached .*\n(\d+ +vm1:.*\n)*\d+ +vm1:busy ")
            for program in programs:
                output, _ = program.communicate(timeout=60)
                self.assertEqual(program.returncode, 0, output)

    def test_many_launches_share_doorbells(self):
        with Link() as link:
            result = link.guest.run("launches", 100000, timeout=120)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            ended = json.loads(link.guest.cli("stats", "--json").stdout)["ended"]
            self.assertGreaterEqual(ended[0]["launches"], 100000)
            self.assertLessEqual(ended[0]["link_doorbells"], 5000)

    def test_a_copy_that_goes_in_parts_is_one_call(self):
        with Link(size="512MiB", slots=2) as link:
            rounds, size = 5, (36 << 20) + 7
            result = link.guest.run("pinned_copies", "--rounds", rounds)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            ended = json.loads(link.guest.cli("stats", "--json").stdout)["ended"][0]
            self.assertEqual((ended["bytes_to_device"], ended["bytes_from_device"]), (rounds * size, rounds * size))
            self.assertEqual(ended["errors"], 0)
            self.assertLess(ended["records"], 3 * rounds + 100)
            self.assertGreater(ended["link_records"], 40 * rounds + ended["records"], "no parts")

    def test_images_are_not_limited_by_the_slot(self):
        script = pathlib.Path(__file__).with_name("large_image.py")
        # The default VM, and slots as small as they get, of which each image is many times the size.
        for size, slots, images in (("256MiB", 16, (1, 9, 40)), ("16MiB", 4, (1, 7))):
            with Link(size=size, slots=slots) as link:
                result = link.guest.run(harness.sys.executable, script, *images, timeout=100)
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_the_hosts_memory_quota_holds(self):
        with Link(host_classes={"default": {"memory_quota": "256MiB"}}) as link:
            result = link.guest.run("out_of_quota", env=link.guest.environment(VGPU_TEST_QUOTA_MB="256"))
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_the_quota_holds_for_processes_that_allocate_at_once(self):
        with Link(slots=4, prestart=3, host_classes={"default": {"memory_quota": "256MiB"}}) as link:
            for _ in range(3):
                start = f"{time.time() + 1.5:.3f}"
                programs = [link.guest.popen(sys.executable, GRAB, 200, start, 1) for _ in range(3)]
                outputs = [program.communicate(timeout=60) for program in programs]
                said = [[int(word) for word in output.split()] for output, _ in outputs]
                self.assertEqual(sorted(words[0] for words in said), [0, 2, 2], outputs)
                for _, free, total in said:
                    self.assertEqual(total, 256 << 20)
                    self.assertLessEqual(free, 56 << 20, "one process of the VM has 200 MiB")
            wait_until(lambda: link.host.vms()["vm1"]["memory_used"] == 0, 10, "the VM holds nothing any more")

    def test_a_vms_class_bounds_its_processes(self):
        with Link(slots=8, prestart=1, host_classes={"default": {"max_clients": 1}}) as link:
            first = link.guest.popen("busy", "--seconds", 3)
            first_line(first)
            start = time.monotonic()
            second = link.guest.run("vector_add")
            self.assertNotEqual(second.returncode, 0)
            self.assertLess(time.monotonic() - start, 20, second.stdout + second.stderr)
            self.assertIn("class 'default' is limited to 1 clients", link.guest.log_text())
            first.communicate(timeout=60)
            self.assertEqual(first.returncode, 0)
            link.guest.wait_for_device()
            self.assertEqual(link.guest.run("vector_add").returncode, 0)

    def test_cuda_visible_devices_chooses_among_the_guests_devices(self):
        with Link() as link:
            uuid = link.guest.row()["uuid"]
            for visible, works in (("0", True), (uuid, True), (uuid[:9], True), ("1", False), ("-1", False)):
                result = link.guest.run("vector_add", env=link.guest.environment(CUDA_VISIBLE_DEVICES=visible))
                self.assertEqual(result.returncode == 0, works, visible + result.stdout + result.stderr)

    def test_a_vm_can_be_added_and_removed(self):
        with tempfile.TemporaryDirectory(dir=memory_folder("64MiB")) as tree, Host(pathlib.Path(tree)) as host:
            answer = host.cli("vm", "add", "other", "--size", "32M", "--slots", 2)
            self.assertIn("ivshmem-doorbell", answer.stdout)
            self.assertEqual(host.vms()["other"]["bytes"], 32 << 20)
            self.assertNotEqual(host.cli("vm", "add", "other", check=False).returncode, 0)
            self.assertNotEqual(host.cli("vm", "add", "odd", "--size", "30M", check=False).returncode, 0)
            host.cli("vm", "remove", "other")
            self.assertNotIn("other", host.vms())
            # A path is the caller's, whose folder is not vgpud's.
            near = pathlib.Path(tree) / "near.sock"
            host.cli("vm", "add", "near", "--size", "32M", "--slots", 2, "--socket", os.path.relpath(near))
            self.assertTrue(near.is_socket())


# What cuInit answers, and in how many milliseconds.
CU_INIT = '''
import ctypes, time
cuda = ctypes.CDLL("libcuda.so.1")
start = time.monotonic()
result = cuda.cuInit(0)
print(result, 1000 * (time.monotonic() - start))
'''
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def cu_init(guest):
    result, took = guest.run(harness.sys.executable, "-c", CU_INIT).stdout.split()
    return int(result), float(took)


class NoHost(unittest.TestCase):
    def test_cuda_init_says_within_100_ms_that_the_host_is_gone(self):
        with Link(prestart=2) as link:
            host = link.host.process.pid
            # The first that comes after the stop, several times: this machine may be busy.
            answers = []
            for _ in range(4):
                os.kill(host, signal.SIGSTOP)
                time.sleep(0.2)  # beyond what a busy host may take
                answers.append(cu_init(link.guest))
                reason = link.guest.row()["problem"]
                os.kill(host, signal.SIGCONT)
                self.assertIn("does not answer", reason)
                wait_until(lambda: cu_init(link.guest)[0] == 0, 20, "the guest serves once its host goes on")
            self.assertEqual({result for result, _ in answers}, {NO_DEVICE}, answers)
            self.assertLess(min(took for _, took in answers), 100, answers)
            kill(link.host)
            time.sleep(0.2)
            answers = [cu_init(link.guest) for _ in range(4)]
            self.assertEqual({result for result, _ in answers}, {NO_DEVICE}, answers)
            self.assertLess(min(took for _, took in answers), 100, answers)

    def test_a_vm_that_was_removed_is_said_to_be(self):
        for _ in range(3):
            tree = pathlib.Path(tempfile.mkdtemp(prefix="vgpud-pci-", dir=memory_folder("64MiB")))
            try:
                with Host(tree, {"vm1": {}}) as host, Guest(tree, prestart=4) as guest:
                    guest.wait_for_device()  # one link is ready, the others are on their way
                    host.cli("vm", "remove", "vm1")
                    wait_until(lambda: guest.row()["problem"], 5, "the guest notices")
                    end = time.monotonic() + 3  # in which they fail
                    while time.monotonic() < end:
                        self.assertIn("the host does not serve", guest.row()["problem"])
                        time.sleep(0.1)
            finally:
                shutil.rmtree(tree)

    def refused_at_once(self, guest, reason):
        wait_until(lambda: reason in guest.row()["problem"], 5, f"devices says: {reason}")
        start = time.monotonic()
        result = guest.run("no_service")
        took = time.monotonic() - start
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertLess(took, 1.0)  # of which 0.1 s is vgpud's part; the rest is a process's start on a busy machine
        self.assertIn(reason, guest.cli("devices").stdout)

    def test_no_function(self):
        tree = pathlib.Path(tempfile.mkdtemp())
        (tree / "bus/pci/devices").mkdir(parents=True)
        with Guest(tree) as guest:
            self.refused_at_once(guest, "no VGPU-STUB function")
        shutil.rmtree(tree)

    def test_no_host_then_another_version_then_a_silent_one(self):
        with Link() as link:
            kill(link.host)
            wait_until(lambda: link.guest.row()["problem"], 10, "the guest notices that the host is gone")
            self.refused_at_once(link.guest, "does not answer")
            with (link.tree / FUNCTION / "resource2").open("r+b") as memory:
                memory.seek(8)
                memory.write(struct.pack("<I", 77))
                memory.flush()
                self.refused_at_once(link.guest, "version 77")
                memory.seek(0)
                memory.write(bytes(8))
                memory.flush()
                self.refused_at_once(link.guest, "no vgpud serves")


class Prints(unittest.TestCase):
    def test_what_kernels_print_comes_out_in_every_use_of_a_slot(self):
        with Link(slots=2) as link:
            for _ in range(5):
                result = link.guest.run("device_printf")
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)


class Shares(unittest.TestCase):
    SECONDS = 6

    def ratio(self, programs, device_time):
        """Of two busy processes' device time in the same window. `programs(start)` starts them."""
        start = time.time() + 2.0
        processes = programs(f"{start:.3f}")
        # From their beginning: who comes first has all it queued on the device and pays that back for some seconds.
        time.sleep(max(0.0, start - 0.2 - time.time()))
        before = device_time(processes)
        time.sleep(max(0.0, start + self.SECONDS - 0.5 - time.time()))
        first, second = (after - earlier for earlier, after in zip(before, device_time(processes)))
        for process in processes:
            output, _ = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0, output)
        self.assertGreater(second, 0)
        return first / second

    def busy(self, guest, program, start):
        # So much is queued that a client without a CPU for a while still has work: a share is owed to who wants it.
        return guest.popen(program, "--seconds", self.SECONDS, "--start-at", start, "--rounds", 20000, "--blocks", 16,
                           "--in-flight", 64)

    def ratio_of_vms(self, weights, light_processes=1):
        """Of the device time of two VMs of such weights, the second with several processes."""
        tree = pathlib.Path(tempfile.mkdtemp(prefix="vgpud-pci-", dir=memory_folder("64MiB")))
        names = ("heavy", "light")
        classes = {"default": {}} | {name: {"weight": weight} for name, weight in zip(names, weights)}
        try:
            with Host(tree, {name: {"class": name} for name in names}, classes) as host, \
                    Guest(tree / "heavy") as heavy, Guest(tree / "light", prestart=light_processes) as light:
                heavy.wait_for_device()
                light.wait_for_device()

                def device_time(_):
                    rows = [row for row in host.clients() if row["guest_pid"]]
                    return [sum(row["device_ns"] for row in rows if row["vm"] == name) for name in names]

                return self.ratio(lambda start: [self.busy(one, "busy", start) for one in [heavy] + [light] * light_processes],
                                  device_time)
        finally:
            shutil.rmtree(tree, ignore_errors=True)

    def test_the_hosts_classes_order_the_vms(self):
        self.assertAlmostEqual(self.ratio_of_vms((300, 100)), 3.0, delta=0.4)

    def test_a_small_weight_is_divided_among_a_vms_processes(self):
        self.assertAlmostEqual(self.ratio_of_vms((3, 1), light_processes=3), 3.0, delta=0.4)

    def test_the_guests_classes_order_its_processes(self):
        classes = {"default": {}, "heavy": {"weight": 300}, "light": {"weight": 100}}
        with Link(prestart=2, guest_classes=classes) as link:
            link.guest.write_config(classes, [("*/busy_shared", "heavy"), ("*/busy", "light")])
            link.guest.cli("reload")

            def device_time(processes):
                rows = {row["pid"]: row["device_ns"] for row in link.guest.clients()}
                return [rows[process.pid] for process in processes]

            ratio = self.ratio(lambda start: [self.busy(link.guest, name, start) for name in ("busy_shared", "busy")],
                               device_time)
        self.assertAlmostEqual(ratio, 3.0, delta=0.4)


class Sharing(unittest.TestCase):
    """Memory and events of one guest process opened by another."""

    def test_processes_of_one_vm_share_and_those_of_another_open_nothing(self):
        tree = pathlib.Path(tempfile.mkdtemp(prefix="vgpud-pci-", dir=memory_folder("128MiB")))
        try:
            with Host(tree, {"one": {}, "two": {}}), Guest(tree / "one") as one, Guest(tree / "two") as two:
                one.wait_for_device()
                two.wait_for_device()
                for arguments in (("ipc",), ("ipc", "orphan"), ("vmm_share",), ("pool_share",), ("ipc", "victim", two.socket)):
                    result = one.run(*arguments)
                    self.assertEqual(result.returncode, 0, f"{arguments}: {result.stdout}{result.stderr}")
                self.assertEqual([guest.stats()["broker"]["faults"] for guest in (one, two)], [0, 0])
                if os.geteuid() == 0:
                    one.folder.chmod(0o755)
                    one.socket.chmod(0o666)
                    result = one.run("ipc", "victim", 65534)
                    self.assertEqual(result.returncode, 0, result.stderr)
        finally:
            shutil.rmtree(tree, ignore_errors=True)


class Faults(unittest.TestCase):
    def test_a_fault_stays_with_its_process(self):
        with Link(slots=8, prestart=2) as link:
            busy = link.guest.popen("busy", "--seconds", 2)
            first_line(busy)
            self.assertEqual(link.guest.run("illegal_address").returncode, 0)  # it expects the error
            output, _ = busy.communicate(timeout=30)
            self.assertEqual(busy.returncode, 0, output)

    def test_guest_daemon_killed_and_started_again(self):
        with Link() as link:
            busy = link.guest.popen("busy", "--seconds", 30, stderr=harness.subprocess.STDOUT)
            first_line(busy)
            kill(link.guest)
            output, _ = busy.communicate(timeout=20)
            self.assertNotEqual(busy.returncode, 0, output)
            link.guest.start()
            link.guest.wait_for_device()
            result = link.guest.run("vector_add")
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            wait_until(lambda: all(row["guest_pid"] != busy.pid for row in link.host.clients()), 5,
                       "the host has freed what the first guest daemon held")

    def test_host_daemon_killed_and_started_again(self):
        with Link() as link:
            busy = link.guest.popen("busy", "--seconds", 30, stderr=harness.subprocess.STDOUT)
            first_line(busy)
            kill(link.host)
            output, _ = busy.communicate(timeout=20)
            self.assertNotEqual(busy.returncode, 0, output)
            link.host.start()
            link.guest.wait_for_device(30)
            result = link.guest.run("vector_add")
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_a_slot_that_somebody_else_closes_is_an_end(self):
        with Link() as link:
            busy = link.guest.popen("busy", "--seconds", 100, stderr=harness.subprocess.STDOUT)
            first_line(busy)
            with (link.tree / FUNCTION / "resource2").open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
                for slot in range(4):
                    at = 65536 + slot * 32768
                    request, _, _, pid = struct.unpack_from("<IIIi", memory, at)
                    if pid == busy.pid:
                        struct.pack_into("<I", memory, at, request + 1)
            output, _ = busy.communicate(timeout=20)
            self.assertNotEqual(busy.returncode, 0, output)
            # Whichever is seen first: that its channel is closed, or what has become of the slot.
            self.assertRegex(link.guest.log_text(), "the host ended the session|does not hold this session any more")
            link.guest.wait_for_device()
            self.assertEqual(link.guest.run("vector_add").returncode, 0)

    def test_a_workers_death_is_told(self):
        with Link() as link:
            busy = link.guest.popen("busy", "--seconds", 30, stderr=harness.subprocess.STDOUT)
            first_line(busy)
            row = wait_until(lambda: [row for row in link.host.clients() if row["guest_pid"] == busy.pid], 5,
                             "the host knows the process")[0]
            os.kill(row["worker_pid"], signal.SIGKILL)
            output, _ = busy.communicate(timeout=20)
            self.assertNotEqual(busy.returncode, 0, output)
            self.assertEqual(link.guest.run("vector_add").returncode, 0)

    def test_a_stopped_worker_holds_up_only_its_process(self):
        with Link(prestart=2) as link:
            busy = link.guest.popen("busy", "--seconds", 30)
            first_line(busy)
            row = wait_until(lambda: [row for row in link.host.clients() if row["guest_pid"] == busy.pid], 5,
                             "the host knows the process")[0]
            os.kill(row["worker_pid"], signal.SIGSTOP)
            self.assertEqual(link.guest.run("vector_add").returncode, 0)
            busy.kill()
            busy.communicate(timeout=10)
            wait_until(lambda: all(row["guest_pid"] != busy.pid for row in link.host.clients()), 10,
                       "the stuck worker is ended with its process")

    def test_a_guest_process_killed_gives_everything_back(self):
        with Link() as link:
            for _ in range(6):  # more than there are slots
                busy = link.guest.popen("busy", "--seconds", 30)
                first_line(busy)
                busy.kill()
                busy.communicate(timeout=10)
            wait_until(lambda: link.host.vms()["vm1"]["slots_open"] <= 1, 10, "the slots are free but for the ready one")
            self.assertEqual(link.guest.run("vector_add").returncode, 0)

    def test_a_guest_process_killed_while_it_copies_gives_everything_back(self):
        with Link(size="512MiB", slots=2) as link:
            for turn in range(5):  # more than there are slots
                copying = link.guest.popen("pinned_copies", "--rounds", 100000)
                first_line(copying)
                time.sleep(0.02 + 0.013 * turn)
                copying.kill()
                copying.communicate(timeout=10)
            wait_until(lambda: link.host.vms()["vm1"]["slots_open"] <= 1, 10, "the slots are free but for the ready one")
            result = link.guest.run("pinned_copies", "--rounds", 1)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_garbage_and_endless_doorbells_hurt_nobody_else(self):
        """A guest without a vgpud of ours: writes into every word of its BAR2 and rings all the time."""
        tree = pathlib.Path(tempfile.mkdtemp(prefix="vgpud-pci-", dir=memory_folder("64MiB")))
        good, bad = tree / "good", tree / "bad"
        try:
            with Host(tree, {"good": {}, "bad": {"size": "16MiB", "slots": 2}}) as host, Guest(good) as guest:
                guest.wait_for_device()
                chance = random.Random(5)
                slots = 65536
                with (bad / FUNCTION / "resource2").open("r+b") as file, \
                        (bad / FUNCTION / "resource0").open("r+b") as registers:
                    memory, doorbell = mmap.mmap(file.fileno(), 0), mmap.mmap(registers.fileno(), 4096)
                    end = time.monotonic() + 4
                    rounds = 0
                    while time.monotonic() < end:
                        rounds += 1
                        memory[4096:4104] = struct.pack("<Q", 1 + rounds // 50)  # now and then another guest
                        for slot in range(2):
                            at = slots + slot * 32768
                            memory[at:at + 64] = struct.pack("<III", chance.randrange(2), rounds, rounds) + \
                                chance.randbytes(52)
                        for _ in range(64):
                            at = chance.randrange(0, len(memory) - 64)
                            memory[at:at + 64] = chance.randbytes(64)
                        doorbell[12:16] = struct.pack("<I", 0x10001)
                    self.assertGreater(rounds, 100)
                    result = guest.run("vector_add")
                    self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
                self.assertEqual(guest.run("reduce").returncode, 0)
                self.assertIsNone(host.process.poll())
        finally:
            shutil.rmtree(tree, ignore_errors=True)


if __name__ == "__main__":
    unittest.main()
