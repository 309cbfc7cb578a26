#!/usr/bin/env python3
"""What vgpud's metrics say of devices, beside what they say of clients; and what the dashboard asks of them."""

import json
import os
import re
import unittest
from unittest import mock

import control_test
import harness
from harness import DEVICE_KIND, Service, become_subreaper, first_line, wait_until
from oversubscription_test import CARD, oversubscribed

SECOND = "name: second, ordinal: 1"  # after "test"
MOVES = {"moves_out": "moves_out_total", "moves_in": "moves_in_total", "bytes_moved_out": "moved_out_bytes_total",
         "bytes_moved_in": "moved_in_bytes_total", "move_out_ns": "move_out_seconds_total",
         "move_in_ns": "move_in_seconds_total", "memory_wait_ns": "memory_wait_seconds_total"}


class Scrapes(unittest.TestCase):
    """Has a vgpud-metrics that serves what a vgpud says."""

    serve = control_test.Metrics.start
    page = control_test.Metrics.page

    def device_values(self, name):
        """Of a metric of devices: {device: value}."""
        _, samples = control_test.parse_exposition(self.page())[name]
        return {labels["device"]: value for _, labels, value in samples}


class Devices(Scrapes):
    def check_times(self, service):
        """That each device's time is the sum of its clients', of whom all have ended. Returns the times."""
        wait_until(lambda: not service.clients(), 10, "all have ended")
        stats = service.stats("--ended")
        parts = [part for row in stats["ended"] for part in row.get("devices") or [row]]
        shown = self.device_values("vgpud_device_gpu_seconds_total")
        times = {}
        for device in stats["devices"]:
            name = device["name"]
            used = sum(part["device_ns"] for part in parts if part["device"] == name)
            times[name] = device["device_ns"]
            self.assertAlmostEqual(device["device_ns"], used, delta=0.01 * used, msg=name)
            self.assertAlmostEqual(shown[name], used / 1e9, delta=0.01 * used / 1e9, msg=name)
            # A GPU does not say whose work it executed: what several claim is charged once.
            self.assertLessEqual(device["charged_ns"], 1.05 * used, name)
            if DEVICE_KIND == "software":
                self.assertGreaterEqual(device["charged_ns"], 0.95 * used, name)
        return times

    def test_gpu_time_is_that_of_all_clients_whether_they_had_competitors_or_not(self):
        with Service(more_devices=[SECOND], prestart=2) as service:
            service.wait_for_workers()
            self.serve(service)
            start = lambda name, visible: service.popen(name, "--seconds", 1, "--rounds", 20000,
                                                        env=service.environment(CUDA_VISIBLE_DEVICES=visible))
            lone = start("busy", "0")
            first_line(lone)
            wait_until(lambda: self.device_values("vgpud_device_gpu_seconds_total")["test"] > 0.01, 10,
                       "a lone client's time counts while it works")
            before = {"test": 0, "second": 0}
            for name, processes in (("alone", [lone]), ("together", [("busy", "0"), ("busy_shared", "0")]),
                                    ("on both", [("busy_devices", "0,1")])):
                with self.subTest(name):
                    processes = [start(*one) if isinstance(one, tuple) else one for one in processes]
                    for process in processes:
                        output, _ = process.communicate(timeout=60)
                        self.assertEqual(process.returncode, 0, output)
                    times = self.check_times(service)
                    self.assertGreater(times["test"], before["test"] + 1e7)
                    self.assertEqual(times["second"] > 0, name == "on both")
                    before = times

    def test_moves_of_memory_are_counted_by_device_and_stay_when_the_clients_have_ended(self):
        with mock.patch.dict(os.environ, {"SOFTGPU_MEMORY": f"{CARD}M"}), oversubscribed(prestart=2) as service:
            service.wait_for_workers()
            self.serve(service)
            processes = [service.popen(name, "--percent", 60, "--seconds", 1) for name in ("oversub", "oversub_shared")]
            for process in processes:
                output, _ = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 0, output)
            wait_until(lambda: not service.clients(), 10, "both have ended")
            stats = service.stats("--ended")
            device = stats["devices"][0]["oversubscribe"]
            for key, metric in MOVES.items():
                value = device[key]
                self.assertGreater(value, 0, key)
                self.assertAlmostEqual(value, sum(row[key] for row in stats["ended"]), delta=0.01 * value, msg=key)
                value *= 1e-9 if key.endswith("_ns") else 1
                self.assertAlmostEqual(self.device_values("vgpud_device_" + metric)["test"], value, delta=0.01 * value, msg=metric)


class Dashboard(Scrapes):
    def queries(self):
        dashboard = json.loads((harness.ROOT / "docs" / "grafana-dashboard.json").read_text())
        return [(panel["title"], target) for panel in dashboard["panels"] for target in panel["targets"]]

    def test_its_queries_find_series_and_name_labels_that_these_have(self):
        mover = "name: mover, ordinal: 2, oversubscribe: {host_limit: 1GiB}"
        with Service(classes={"default": {"max_clients": 1}}, more_devices=[SECOND, mover], prestart=1) as service:
            service.wait_for_workers()
            self.serve(service)
            process = service.popen("busy_devices", "--seconds", 30, env=service.environment(CUDA_VISIBLE_DEVICES="0,1"))
            first_line(process)
            self.assertNotEqual(service.run("vector_add").returncode, 0)  # one is refused
            wait_until(lambda: "vgpud_device_moves_out_total" in self.page(), 10, "all devices are known")
            families = control_test.parse_exposition(self.page())
            process.kill()
            process.communicate()
        series = {}
        for _, samples in families.values():
            for sample, labels, _ in samples:
                series.setdefault(sample, []).append(labels)
        self.assertGreater(len(self.queries()), 20)
        for title, target in self.queries():
            found = re.findall(r"\b(vgpud_[a-z_]+)(?:\{([^}]*)\})?", target["expr"])
            self.assertTrue(found, target)
            for name, selector in found:
                with self.subTest(title, metric=name):
                    all_labels = set.intersection(*(set(labels) for labels in series[name]))
                    matchers = re.findall(r'(\w+)=~"([^"]*)"', selector)
                    self.assertEqual(len(matchers), selector.count("="), "each is understood")
                    named = {label for label, _ in matchers} | set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                    for group in re.findall(r"\bby \(([^)]*)\)", target["expr"]):
                        named |= set(re.split(r",\s*", group))
                    self.assertLessEqual(named, all_labels)
                    # As Grafana writes out "All" and one device.
                    devices = {one for labels in series[name] for one in labels.get("device", "").split(",")}
                    for chosen in {"(test|second|mover)"} | devices:
                        hits = [labels for labels in series[name] if all(
                            re.fullmatch(value.replace("$device", chosen), labels[label]) for label, value in matchers)]
                        self.assertTrue(hits, f"{selector} of {chosen} finds none of {series[name]}")


if __name__ == "__main__":
    become_subreaper()
    unittest.main()
