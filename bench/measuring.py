"""What the benchmark scripts share: running the measuring program and reading its numbers."""

import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def integration_harness():
    """The private vgpud of the integration tests (VGPU_BUILD_DIR and VGPU_TEST_DEVICE must be set before)."""
    sys.path.insert(0, str(ROOT / "tests" / "integration"))
    import harness
    return harness


def commit():
    """VGPU_COMMIT, or else the short name of the checked-out commit; outside a repository "unknown"."""
    result = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True, check=False,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return os.environ.get("VGPU_COMMIT") or result.stdout.strip() or "unknown"


def processor():
    """What /proc/cpuinfo calls this machine's CPU."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown processor")


def numbers(text):
    """`name value` lines as a dictionary."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        try:
            found[name] = float(value)
        except ValueError:
            continue
    return found


def measure(command, environment, rounds=3):
    """The median of each number over some runs of a measuring program."""
    runs = [numbers(subprocess.run(command, env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout)
            for _ in range(rounds)]
    return {name: statistics.median(run[name] for run in runs if name in run) for name in runs[0]}


def start_time(command, environment, rounds=5):
    """Median seconds of a whole run of a tiny program: process start, first kernel, exit."""
    times = []
    for _ in range(rounds):
        start = time.monotonic()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        times.append(time.monotonic() - start)
    return statistics.median(times)
