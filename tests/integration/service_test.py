#!/usr/bin/env python3
"""vgpud and vgpud-cli from the outside: verify, run, configuration, no service at all."""

import os
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import harness
from harness import BUILD, PROGRAMS, Service, first_line, wait_until


class Verify(unittest.TestCase):
    def test_a_program_that_uses_the_gpu_is_verified(self):
        with Service() as service:
            for program in ("matmul_tiled", "vector_add_shared", "driver_api"):
                result = service.cli("verify", "--", PROGRAMS / program, check=False)
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
                last = result.stdout.strip().splitlines()[-1]
                self.assertIn("VERIFIED", last)
                self.assertNotIn("NOT VERIFIED", last)

    def test_a_program_that_computes_on_the_cpu_is_not_verified(self):
        with Service() as service:
            for program in ("cpu_only", "cpu_only_shared"):
                result = service.cli("verify", "--", PROGRAMS / program, check=False)
                self.assertNotEqual(result.returncode, 0, result.stdout)
                self.assertIn("NOT VERIFIED", result.stdout.strip().splitlines()[-1])

    def test_a_program_without_cuda_is_not_verified(self):
        with Service() as service:
            result = service.cli("verify", "--", "/bin/true", check=False)
            self.assertNotEqual(result.returncode, 0, result.stdout)
            self.assertIn("NOT VERIFIED", result.stdout.strip().splitlines()[-1])

    def test_a_program_that_fails_is_not_verified(self):
        with Service(classes={"default": {"memory_quota": "64MiB"}}) as service:
            result = service.cli("verify", "--", PROGRAMS / "busy", "--memory-mb", 512, "--seconds", 1, check=False)
            self.assertNotEqual(result.returncode, 0, result.stdout)
            self.assertIn("NOT VERIFIED", result.stdout.strip().splitlines()[-1])

    def test_a_refusal_is_told_with_its_reason_to_the_program_that_it_met(self):
        rules = "rules:\n  - {name: away, match: {executable: '*/vector_add'}, reject: true}\n"
        with Service(extra=rules) as service:
            # The program looks away from the failure, so that the refusal is the first reason.
            met = service.cli("verify", "--", "/bin/sh", "-c", f"{PROGRAMS / 'vector_add'}; true", check=False)
            self.assertEqual(met.returncode, 1, met.stdout)
            last = met.stdout.strip().splitlines()[-1]
            self.assertIn("NOT VERIFIED: vgpud refused the program: ", last)
            self.assertIn("the rule in line", last)
            # Another program is refused while this one, which has loaded our library, makes no call.
            waits = service.popen(BUILD / "bin" / "vgpud-cli", "verify", "--", "/bin/sh", "-c",
                                  "echo ready; LD_PRELOAD=libcuda.so.1 cat; true", stdin=subprocess.PIPE)
            first_line(waits)
            self.assertNotEqual(service.run("vector_add").returncode, 0)
            output, _ = waits.communicate(timeout=30)
            self.assertIn("0 process(es) admitted\n", output)
            self.assertIn("NOT VERIFIED: the program loaded the library but never used CUDA",
                          output.strip().splitlines()[-1])

    def test_figures_that_vgpud_has_forgotten_are_no_evidence_against_a_program(self):
        for kept in (0, 1):
            with Service(extra=f"ended_clients: {kept}\n") as service:
                result = service.cli("verify", "--", "/bin/sh", "-c",
                                     f"{PROGRAMS / 'vector_add'} && {PROGRAMS / 'cpu_only'}", check=False)
                self.assertEqual(result.returncode, 1, result.stdout)
                last = result.stdout.strip().splitlines()[-1]
                self.assertIn("NOT VERIFIED: it cannot be told", last)
                self.assertIn("ended_clients", last)


class Run(unittest.TestCase):
    def test_run_sets_the_library_path_and_passes_the_exit_status(self):
        with Service() as service:
            environment = {key: value for key, value in service.environment().items() if key != "LD_LIBRARY_PATH"}
            good = subprocess.run([BUILD / "bin" / "vgpud-cli", "run", "--", PROGRAMS / "vector_add"], env=environment,
                                  capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(good.returncode, 0, good.stdout + good.stderr)
            bad = subprocess.run([BUILD / "bin" / "vgpud-cli", "run", "--", "/bin/sh", "-c", "exit 7"], env=environment,
                                 capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(bad.returncode, 7, bad.stdout + bad.stderr)
            # What no card's machine code can do on the software GPU our libraries do in the place of NVIDIA's.
            product = subprocess.run([BUILD / "bin" / "vgpud-cli", "run", "--", PROGRAMS / "cublas_lt"], env=environment,
                                     capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(product.returncode, 0, product.stdout + product.stderr)

    def test_standalone_needs_no_service(self):
        harness.become_subreaper()
        environment = {key: value for key, value in os.environ.items() if key not in ("LD_LIBRARY_PATH", "VGPUD_SOCKET")}
        result = subprocess.run([BUILD / "bin" / "vgpud-cli", "run", "--standalone", "--device", harness.DEVICE_KIND,
                                 "--", PROGRAMS / "reduce"], env=environment, capture_output=True, text=True,
                                timeout=60, check=False)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        wait_until(lambda: all(harness.is_zombie(pid) for pid in harness.descendants(os.getpid())), 5,
                   "the private vgpud ends with its program")

    def test_standalone_takes_any_folder_for_temporary_files(self):
        environment = {key: value for key, value in os.environ.items() if key not in ("LD_LIBRARY_PATH", "VGPUD_SOCKET")}
        with tempfile.TemporaryDirectory(prefix="it's: a #") as folder:
            result = subprocess.run([BUILD / "bin" / "vgpud-cli", "run", "--standalone", "--device", harness.DEVICE_KIND,
                                     "--", PROGRAMS / "reduce"], env={**environment, "TMPDIR": folder}, text=True,
                                    capture_output=True, timeout=60, check=False)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            self.assertEqual(os.listdir(folder), [])

    def test_an_interrupted_start_leaves_nothing_behind(self):
        harness.become_subreaper()
        environment = {key: value for key, value in os.environ.items() if key not in ("LD_LIBRARY_PATH", "VGPUD_SOCKET")}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number), tempfile.TemporaryDirectory() as folder:
                starts = subprocess.Popen([BUILD / "bin" / "vgpud-cli", "run", "--standalone", "--device",
                                           harness.DEVICE_KIND, "--", "/bin/sleep", "60"],
                                          env={**environment, "TMPDIR": folder}, stderr=subprocess.DEVNULL)
                wait_until(lambda: os.listdir(folder), 10, "its folder is there")
                starts.send_signal(number)
                self.assertEqual(starts.wait(20), -number)
                self.assertEqual(os.listdir(folder), [])
                wait_until(lambda: all(harness.is_zombie(pid) for pid in harness.descendants(os.getpid())), 5,
                           "the private vgpud has ended")

    def test_version_is_printed(self):
        result = subprocess.run([BUILD / "bin" / "vgpud-cli", "--version"], capture_output=True, text=True, check=True)
        self.assertRegex(result.stdout, r"\d+\.\d+\.\d+")


class NoService(unittest.TestCase):
    def environment(self, path):
        return {**os.environ, "LD_LIBRARY_PATH": str(harness.CLIENT_LIBRARY), "VGPUD_SOCKET": str(path)}

    def test_init_fails_quickly_where_no_socket_is(self):
        result = subprocess.run([PROGRAMS / "no_service"], env=self.environment("/nonexistent/vgpud.sock"),
                                capture_output=True, text=True, timeout=10, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_init_fails_quickly_where_nobody_listens(self):
        path = f"/tmp/vgpud-dead-{os.getpid()}.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(path)
        try:
            result = subprocess.run([PROGRAMS / "no_service"], env=self.environment(path), capture_output=True,
                                    text=True, timeout=10, check=False)
            self.assertEqual(result.returncode, 0, result.stderr)
        finally:
            os.unlink(path)

    def test_a_runtime_program_says_that_there_is_no_device(self):
        result = subprocess.run([PROGRAMS / "vector_add"], env=self.environment("/nonexistent/vgpud.sock"),
                                capture_output=True, text=True, timeout=10, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("cudaMalloc", result.stderr)


class Configuration(unittest.TestCase):
    def test_sighup_reloads_classes_and_leaves_clients_alone(self):
        with Service() as service:
            client = service.popen("busy", "--seconds", 4)
            first_line(client)
            service.write_config(classes={"default": {"memory_quota": "128MiB"}})
            service.process.send_signal(signal.SIGHUP)
            time.sleep(0.5)
            result = service.run("out_of_quota", env=service.environment(VGPU_TEST_QUOTA_MB="128"))
            self.assertEqual(result.returncode, 0, result.stderr)
            output, _ = client.communicate(timeout=30)
            self.assertEqual(client.returncode, 0, output)

    def test_a_bad_file_at_sighup_changes_nothing(self):
        with Service() as service:
            service.config.write_text("classes: {default: {weigth: 3}}\n")
            service.process.send_signal(signal.SIGHUP)
            time.sleep(0.3)
            self.assertIsNone(service.process.poll())
            self.assertIn("weigth", service.log_text())
            self.assertEqual(service.run("vector_add").returncode, 0)

    def test_a_bad_file_at_start_is_an_error_with_its_line(self):
        service = Service()
        try:
            service.config.write_text("log: {level: info}\nclasses:\n  default: {weight: heavy}\n")
            result = subprocess.run([BUILD / "bin" / "vgpud", "--config", service.config, "--socket", service.socket,
                                     "--control", service.control], capture_output=True, text=True, timeout=10,
                                    check=False)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("vgpud.yaml:3", result.stdout + result.stderr)
        finally:
            service._clean_up()

    def test_a_client_that_a_rule_rejects_gets_no_device(self):
        with Service(extra="rules:\n  - {match: {executable: '*/vector_add'}, reject: true}\n") as service:
            self.assertNotEqual(service.run("vector_add").returncode, 0)
            self.assertEqual(service.run("vector_add_shared").returncode, 0)


if __name__ == "__main__":
    harness.become_subreaper()
    unittest.main(verbosity=2)
