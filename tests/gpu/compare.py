#!/usr/bin/env python3
"""Runs the checks of frameworks (torch, triton, jax, cupy, numba, nccl) natively, natively again, and through a private
vgpud with the device `cuda`, and compares what they computed.

    compare.py [--suites torch,jax,...] [--log FOLDER]

A check passes when the run through vgpud gives the bits of a native run; where two native runs differ from each other
(their algorithms then depend on timing), norms within 0.1 % of the native one's. Prints one line for each check that does not
pass natively or differs, and `SUITE: N of M` for each suite; the exit status is 0 when none fails that passes natively.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))

SUITES = ("torch", "expandable_segments", "triton", "jax", "cupy", "numba", "nccl")
TIMEOUT = 240


def run_suite(suite, environment, log):
    """Runs one suite; returns {check: its JSON line} and the seconds it took."""
    start = time.monotonic()
    with log.open("w") as errors:
        try:
            done = subprocess.run([sys.executable, HERE / f"{suite}_checks.py"], env=environment, text=True, timeout=TIMEOUT,
                                  stdout=subprocess.PIPE, stderr=errors, check=False)
            output = done.stdout
        except subprocess.TimeoutExpired as late:
            output = (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else (late.stdout or "")
            print(f"  {suite}: no end within {TIMEOUT} s")
    rows = {}
    for line in output.splitlines():
        if line.startswith('{"name"'):
            row = json.loads(line)
            rows[row["name"]] = row
    return rows, time.monotonic() - start


def agrees(first, second, through):
    """True when `through` is right, given two native runs."""
    if "error" in through:
        return False
    if through["hash"] in (first["hash"], second.get("hash")):
        return True
    if first["hash"] == second.get("hash"):
        return False
    return len(first["norm"]) == len(through["norm"]) and all(
        abs(a - b) <= 1e-3 * max(abs(a), 1e-6) for a, b in zip(first["norm"], through["norm"]))


def compare(suite, first, second, through):
    """Prints what is worth saying of a suite; returns (right, natively passing)."""
    right = natively = 0
    for name, row in first.items():
        if "error" in row:
            print(f"  {suite}.{name}: fails natively: {row['error']}")
            continue
        natively += 1
        other = through.get(name, {"error": "the process ended before it"})
        if agrees(row, second.get(name, {}), other):
            right += 1
        else:
            print(f"  {suite}.{name}: {other.get('error') or 'differs from native: ' + str(other['norm'])[:120]}"
                  f"{'' if 'error' in other else ' natively ' + str(row['norm'])[:120]}")
    return right, natively


def run_all(suites, environment, folder):
    """{suite: (right, natively passing, native seconds, seconds through vgpud)}; `environment`: of a client of vgpud."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {}
    for suite in suites:
        first, native_seconds = run_suite(suite, dict(os.environ), folder / f"{suite}-native.log")
        second, _ = run_suite(suite, dict(os.environ), folder / f"{suite}-again.log")
        through, seconds = run_suite(suite, environment, folder / f"{suite}-vgpud.log")
        right, natively = compare(suite, first, second, through)
        table[suite] = (right, natively, native_seconds, seconds)
        print(f"{suite}: {right} of {natively} through vgpud ({native_seconds:.0f} s natively, {seconds:.0f} s through vgpud)",
              flush=True)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--log", type=pathlib.Path, default=pathlib.Path("/tmp/vgpud-checks"))
    options = parser.parse_args()
    os.environ["VGPU_TEST_DEVICE"] = "cuda"
    import harness
    with harness.Service() as service:
        service.wait_for_workers()
        table = run_all(options.suites.split(","), service.environment(), options.log)
    sys.exit(any(right != natively for right, natively, _, _ in table.values()))


if __name__ == "__main__":
    main()
