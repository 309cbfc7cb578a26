#!/usr/bin/env python3
"""Several clients of one vgpud: side by side, sharing fairly, failing alone, ending in every way."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest

import harness
from harness import Service, first_line, kernels_done, wait_until


class SideBySide(unittest.TestCase):
    def test_two_programs_run_at_once_and_stats_shows_both(self):
        with Service() as service:
            programs = [service.popen("nbody", "--seconds", 3), service.popen("mandelbrot_shared", "--seconds", 3)]
            pids = {program.pid for program in programs}

            def both_launch():
                rows = {row["pid"]: row for row in service.clients()}
                return pids <= set(rows) and all(rows[pid]["launches"] > 0 for pid in pids)

            wait_until(both_launch, 10, "stats shows both clients launching")
            table = service.cli("stats").stdout
            for program in programs:
                self.assertIn(str(program.pid), table)
            self.assertIn("nbody", table)
            self.assertIn("mandelbrot", table)
            for program in programs:
                output, _ = program.communicate(timeout=30)
                self.assertEqual(program.returncode, 0, output)

    def test_ps_and_devices_name_what_is_there(self):
        with Service() as service:
            program = service.popen("busy", "--seconds", 2)
            first_line(program)
            self.assertIn(str(program.pid), service.cli("ps").stdout)
            self.assertNotEqual(service.cli("devices").stdout.strip(), "")
            program.communicate(timeout=30)
            self.assertEqual(program.returncode, 0)


class Fairness(unittest.TestCase):
    SECONDS = 7

    def shares(self, service, programs):
        """Runs busy clients for the same window; returns each one's device time in it and its finished kernels.

        So much is queued that a client which the machine leaves without a CPU for a while still has work: a share is
        only owed to who wants it. The window begins before the work: who comes first has all it queued on the device, and
        pays that back for some seconds."""
        start = time.time() + 2.0
        processes = [service.popen(program, "--seconds", self.SECONDS, "--start-at", f"{start:.3f}", "--rounds", 20000,
                                   "--blocks", 16, "--in-flight", 64) for program in programs]

        def device_time():
            rows = {row["pid"]: row["device_ns"] for row in service.clients()}
            return [rows[process.pid] for process in processes]

        time.sleep(max(0.0, start - 0.2 - time.time()))
        before = device_time()
        time.sleep(max(0.0, start + self.SECONDS - 0.5 - time.time()))
        used = [after - earlier for earlier, after in zip(before, device_time())]
        counts = []
        for process in processes:
            output, _ = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0, output)
            counts.append(kernels_done(output))
        return used, counts

    def test_equal_weights_share_equally(self):
        with Service() as service:
            (first, second), counts = self.shares(service, ["busy", "busy_shared"])
        self.assertGreater(min(first, second), 0)
        self.assertLess(abs(first - second) / max(first, second), 0.10, f"{first} against {second} ns, {counts} kernels")

    def test_weights_of_three_to_one_share_three_to_one(self):
        classes = {"default": {}, "heavy": {"weight": 300}, "light": {"weight": 100}}
        rules = [("*/busy_shared", "heavy"), ("*/busy", "light")]
        with Service(classes=classes, rules=rules) as service:
            (heavy, light), counts = self.shares(service, ["busy_shared", "busy"])
        self.assertGreater(light, 0)
        self.assertAlmostEqual(heavy / light, 3.0, delta=0.3, msg=f"{heavy} against {light} ns, {counts} kernels")

    def test_sharing_costs_little_of_the_device(self):
        with Service() as service:
            _, (alone,) = self.shares(service, ["busy"])
            _, (first, second) = self.shares(service, ["busy", "busy_shared"])
        self.assertGreater(first + second, 0.75 * alone, f"{first} + {second} shared, {alone} alone")


class Waits(unittest.TestCase):
    def test_a_synchronisation_with_nothing_to_wait_for_is_not_waited_for(self):
        """What an inference engine does before each token, input by input: a small copy to the device and a synchronisation;
        and after it: a copy to pageable memory, which is over when it returns, and a synchronisation."""
        with Service() as service:
            for rounds in (10, 1010):
                self.assertEqual(service.run("small_uploads", "--rounds", rounds).returncode, 0)
            wait_until(lambda: not service.clients(), 10, "the clients have gone")
            few, many = sorted(service.stats("--ended")["ended"], key=lambda row: row["session"])
            self.assertEqual(many["bytes_to_device"] - few["bytes_to_device"], 1000 * 512)
            self.assertEqual(many["bytes_from_device"] - few["bytes_from_device"], 1000 * 512)
            self.assertEqual(many["records"] - few["records"], 3000)  # the copies, and one to await those to the device
            self.assertEqual(many["waited_calls"], few["waited_calls"])

    def test_a_stream_that_waits_keeps_no_other_back_beside_busy_clients(self):
        with Service() as service:
            others = [service.popen(name, "--seconds", 60, "--rounds", 20000, "--in-flight", 64) for name in ("busy", "busy_shared")]
            for other in others:
                first_line(other)
            for program in ("held_streams", "stream_order"):
                result = service.run(program)
                self.assertEqual(result.returncode, 0, result.stderr)
            for other in others:
                other.kill()
                other.communicate(timeout=10)


class SmallArena(unittest.TestCase):
    def test_copies_of_many_threads_get_through_one_mebibyte(self):
        with Service(classes={"default": {"arena": "1MiB"}}) as service:
            for program in ("copy_threads", "copy_threads_shared", "async_copies"):
                result = service.run(program)
                self.assertEqual(result.returncode, 0, result.stderr)


class Faults(unittest.TestCase):
    def test_an_illegal_address_ends_one_client_and_its_neighbour_notices_nothing(self):
        with Service() as service:
            neighbour = service.popen("busy", "--seconds", 3)
            first_line(neighbour)
            for program in ("illegal_address", "illegal_address_shared", "trap"):
                result = service.run(program)
                self.assertEqual(result.returncode, 0, result.stderr)
            output, _ = neighbour.communicate(timeout=30)
            self.assertEqual(neighbour.returncode, 0, output)  # busy compares every element it computed.
            self.assertEqual(service.run("vector_add").returncode, 0)

    def test_a_worker_that_dies_is_an_error_for_its_client_and_nobody_else(self):
        with Service() as service:
            neighbour = service.popen("busy", "--seconds", 4, "--tag", "neighbour")
            first_line(neighbour)
            victim = service.popen("busy", "--seconds", 60, stderr=subprocess.PIPE)
            first_line(victim)
            row = next(row for row in service.clients() if row["pid"] == victim.pid)
            worker = row["worker_pid"]
            self.assertIn(worker, harness.children(service.process.pid))
            os.kill(worker, signal.SIGKILL)
            _, errors = victim.communicate(timeout=5)
            self.assertEqual(victim.returncode, 1, errors)
            self.assertIn("returned", errors)
            output, _ = neighbour.communicate(timeout=30)
            self.assertEqual(neighbour.returncode, 0, output)

    def test_quotas_hold_for_each_client_alone(self):
        with Service(classes={"default": {"memory_quota": "256MiB"}}) as service:
            environment = service.environment(VGPU_TEST_QUOTA_MB="256")
            both = [service.popen(name, env=environment) for name in ("out_of_quota", "out_of_quota_shared")]
            for program in both:
                output, _ = program.communicate(timeout=60)
                self.assertEqual(program.returncode, 0, output)


# A kernel with an instruction that the software GPU does not have, and a call that is refused for its arguments.
REFUSED = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
ptx = b'''.version 7.5
.target sm_75
.address_size 64
.visible .entry odd_kernel() {
  .reg .b32 %r<3>;
  mov.u32 %r1, 1;
  vadd2.s32.s32.s32 %r2.h10, %r1.h10, %r1.h10, %r1;
  ret;
}
'''
def ok(result):
    assert result == 0, result
ok(cuda.cuInit(0))
context, module, function = (ctypes.c_void_p() for _ in range(3))
ok(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
ok(cuda.cuCtxSetCurrent(context))
ok(cuda.cuModuleLoadData(ctypes.byref(module), ptx))
ok(cuda.cuModuleGetFunction(ctypes.byref(function), module, b"odd_kernel"))
launched = cuda.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, None, None)
waited = cuda.cuCtxSynchronize()
assert 801 in (launched, waited), (launched, waited)
properties = (ctypes.c_int * 16)(1, 0, 2, 0)  # pinned memory of the host
size = ctypes.c_size_t()
assert cuda.cuMemGetAllocationGranularity(ctypes.byref(size), properties, 0) != 0
"""


class Refusals(unittest.TestCase):
    @unittest.skipUnless(harness.DEVICE_KIND == "software", "a card has the instruction")
    def test_the_log_names_what_was_refused(self):
        with Service() as service:
            command = [sys.executable, "-c", REFUSED]
            result = subprocess.run(command, env=service.environment(), capture_output=True, text=True, check=False)
            self.assertEqual(result.returncode, 0, result.stderr)
            log = service.log_text()
            self.assertRegex(log, r"softgpu: kernel odd_kernel refused: line 7: .*video instruction")
            self.assertIn("the client called cuMemGetAllocationGranularity: not on the device, which", log)


class Endings(unittest.TestCase):
    ROUNDS = int(os.environ.get("VGPU_TEST_KILL_ROUNDS", "30"))

    def test_the_last_place_goes_from_one_client_to_the_next(self):
        """A client that comes while the only worker ends, or the next one starts, waits; one that comes while it serves does not."""
        with Service(device="max_workers: 1", prestart=1) as service:
            for _ in range(8):
                result = service.run("vector_add")
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            busy = service.popen("busy", "--seconds", 20)
            first_line(busy)
            started = time.monotonic()
            self.assertNotEqual(service.run("vector_add").returncode, 0)
            self.assertLess(time.monotonic() - started, 5)
            busy.kill()
            busy.wait()

    def test_killed_clients_leave_nothing_behind(self):
        programs = ["busy", "nbody", "copies", "threads16", "graphs", "pinned_mapped_shared", "vmm", "stream_order"]
        choose = random.Random(4711)
        with Service() as service:
            neighbour = service.popen("busy", "--seconds", 300, "--rounds", 200, "--tag", "neighbour")
            first_line(neighbour)
            broker = service.process.pid
            # One client there and gone, so that everything made on first use exists before the count.
            self.assertEqual(service.run("vector_add").returncode, 0)
            time.sleep(1.0)
            files_before = sorted(harness.open_files(broker).values())
            workers_before = len(harness.descendants(broker))
            memory_before = harness.shared_memory_kib()
            for _ in range(self.ROUNDS):
                program = choose.choice(programs)
                arguments = ["--seconds", 30] if program in ("busy", "nbody") else []
                victim = service.popen(program, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(choose.uniform(0.0, 0.4))
                victim.kill()
                victim.wait()
                wait_until(lambda pid=victim.pid: all(row["pid"] != pid for row in service.clients()), 1.0,
                           f"the killed {program} is gone")
                self.assertIsNone(neighbour.poll(), "the neighbour ended")
            wait_until(lambda: len(harness.descendants(broker)) <= workers_before, 5, "the victims' workers are gone")
            kinds = lambda names: sorted(re.sub(r"\[?\d+\]?", "N", name) for name in names)
            wait_until(lambda: len(kinds(harness.open_files(broker).values())) <= len(kinds(files_before)), 5,
                       "the broker's descriptors are closed")
            wait_until(lambda: harness.shared_memory_kib() <= memory_before + 16 * 1024, 5, "shared memory is given back")
            self.assertEqual([row["pid"] for row in service.clients()], [neighbour.pid])
            self.assertEqual(service.run("vector_add").returncode, 0)
            neighbour.kill()
            neighbour.wait()

    def test_the_device_memory_of_a_killed_client_is_free_again(self):
        with Service() as service:
            self.assertEqual(service.run("vector_add").returncode, 0)
            wait_until(lambda: not service.clients(), 1.0, "the first client is gone")
            before = harness.shared_memory_kib()
            victim = service.popen("busy", "--seconds", 60, "--memory-mb", 512)
            first_line(victim)
            row, = service.clients()
            self.assertGreaterEqual(row["memory_used"], 512 << 20)
            worker = row["worker_pid"]
            victim.kill()
            victim.wait()
            wait_until(lambda: not service.clients(), 1.0, "the killed client is gone")
            wait_until(lambda: harness.is_zombie(worker), 1.0, "its worker is gone")
            # One more ready worker may have been started meanwhile, hence the slack.
            wait_until(lambda: harness.shared_memory_kib() <= before + 64 * 1024, 5, "its memory is given back")
            self.assertEqual(service.run("mem_info").returncode, 0)

    def test_vgpud_that_ends_is_an_error_and_no_hang_for_its_clients(self):
        with Service() as service:
            client = service.popen("busy", "--seconds", 60, stderr=subprocess.PIPE)
            first_line(client)
            service.stop()
            _, errors = client.communicate(timeout=10)
            self.assertEqual(client.returncode, 1, errors)


class Hostile(unittest.TestCase):
    ROUNDS = int(os.environ.get("VGPU_TEST_HOSTILE_ROUNDS", "24"))

    def test_random_bytes_in_a_live_channel_hurt_only_who_wrote_them(self):
        with Service() as service:
            broker = service.process.pid
            neighbour = service.popen("busy", "--seconds", 300, "--rounds", 200, "--tag", "neighbour")
            first_line(neighbour)
            files_before = len(harness.open_files(broker))
            for seed in range(self.ROUNDS):
                attacker = service.popen("scribble", seed, 0.3, stderr=subprocess.DEVNULL)
                try:
                    output, _ = attacker.communicate(timeout=5)
                except subprocess.TimeoutExpired:  # Its own library may hang on its own rubbish: its own affair.
                    attacker.kill()
                    output, _ = attacker.communicate()
                self.assertNotEqual(attacker.returncode, 2, f"no shared memory was found to attack: {output}")
                wait_until(lambda pid=attacker.pid: all(row["pid"] != pid for row in service.clients()), 2.0,
                           f"attacker {seed} is gone")
                self.assertIsNone(service.process.poll(), "vgpud ended")
                self.assertIsNone(neighbour.poll(), "the neighbour ended")
            result = service.run("vector_add")
            self.assertEqual(result.returncode, 0, result.stderr)
            wait_until(lambda: len(harness.open_files(broker)) <= files_before + 8, 5, "descriptors are closed")
            neighbour.send_signal(signal.SIGKILL)
            neighbour.wait()

    def test_rubbish_on_the_sockets_hurts_nobody(self):
        import socket
        rubbish = random.Random(99)
        with Service() as service:
            for _ in range(60):
                for path, kind in ((service.socket, socket.SOCK_SEQPACKET), (service.control, socket.SOCK_STREAM)):
                    with socket.socket(socket.AF_UNIX, kind) as peer:
                        peer.settimeout(1.0)
                        try:
                            peer.connect(str(path))
                            peer.send(rubbish.randbytes(rubbish.choice([1, 8, 64, 512, 4096])))
                            if rubbish.random() < 0.3:
                                peer.recv(4096)
                        except OSError:
                            pass  # Refused, closed or silent: all are good answers.
            self.assertIsNone(service.process.poll(), "vgpud ended")
            self.assertEqual(service.run("vector_add").returncode, 0)


class Sharing(unittest.TestCase):
    """Memory and events of one client opened by another; `ipc` itself checks the rest."""

    @unittest.skipUnless(os.geteuid() == 0, "needs another user")
    def test_another_users_handle_opens_nothing(self):
        with Service() as service:
            service.folder.chmod(0o755)
            service.socket.chmod(0o666)
            result = service.run("ipc", "victim", 65534)
            self.assertEqual(result.returncode, 0, result.stderr)


if __name__ == "__main__":
    harness.become_subreaper()
    unittest.main(verbosity=2)
