#!/usr/bin/env python3
"""Runs llama.cpp's test-backend-ops on the CUDA backend and makes a table of it: every case compares the engine's CUDA
kernels with its own CPU backend.

    backend_ops.py --on softgpu|vgpud [--cases few|all] [--ops REGEX] [--table FILE] [--timeout SECONDS]

`few` is a representative selection: every operation with every combination of types, the smallest cases of each. The exit
status is 0 when no case failed. A case that ends the process is counted as crashed and the run goes on behind it.
"""

import argparse
import collections
import contextlib
import csv
import io
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))
sys.path.insert(0, str(HERE))

import engine  # noqa: E402  (the path must be set first)

FEW = 1000
PER_SIGNATURE = 4
BATCH = 250
BACKEND = "CUDA0"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
RESULT = re.compile(r"^\s*(?P<case>[A-Z0-9_]+\(.*\)): (?P<verdict>OK|FAIL|not supported.*)$")

Case = collections.namedtuple("Case", "op parameters")


def name(case):
    return f"{case.op}({case.parameters})"


def all_cases(home, env):
    """Every case that compares one operation and that both backends support, in the program's order."""
    def supported(backend):
        done = subprocess.run([home / "bin" / "test-backend-ops", "support", "-b", backend, "--output", "csv"], check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        if done.returncode != 0 or not rows:
            raise SystemExit(f"test-backend-ops does not see {backend}:\n{done.stderr[-4000:]}")
        return [Case(row["op_name"], row["op_params"]) for row in rows if row["supported"] == "1"]

    on_cpu = set(supported("CPU"))
    return [case for case in dict.fromkeys(supported(BACKEND)) if case in on_cpu]


def signature(case):
    """What distinguishes cases in kind rather than in size: all values that are not numbers."""
    values = re.split(r",(?=[a-zA-Z_])", case.parameters)
    return case.op, tuple(value for value in values if not re.search(r"=[\[\]\d.,e+-]*$", value))


def size(case):
    """A rough measure of a case's work: the product of its dimensions."""
    product = 1
    for number in re.findall(r"(?<![a-zA-Z_])\d+", case.parameters):
        product *= max(1, int(number))
    return product


def select_few(cases):
    groups = collections.defaultdict(list)
    for case in cases:
        groups[signature(case)].append(case)
    rounds = [sorted(group, key=size)[:PER_SIGNATURE] for group in groups.values()]
    chosen = set()
    for turn in range(PER_SIGNATURE):
        candidates = sorted((group[turn] for group in rounds if len(group) > turn), key=size)
        # Every operation has its first signature taken whatever the others take.
        first = {case.op: case for case in reversed(candidates)}
        for case in list(first.values()) + candidates:
            if len(chosen) < FEW:
                chosen.add(case)
    return [case for case in cases if case in chosen]


class Results:
    """What became of the cases, and how long each operation took."""

    def __init__(self):
        self.verdicts = {}
        self.reasons = {}
        self.seconds = collections.Counter()

    def of(self, *verdicts):
        return [case for case, verdict in self.verdicts.items() if verdict in verdicts]

    def table(self):
        operations = collections.defaultdict(collections.Counter)
        for case, verdict in self.verdicts.items():
            operations[case.op][verdict] += 1
        lines = ["operation\tpassed\tfailed\tcrashed\tnot supported\tseconds"]
        for op, counts in sorted(operations.items()):
            lines.append(f"{op}\t{counts['OK']}\t{counts['FAIL']}\t{counts['CRASH']}\t{counts['unsupported']}"
                         f"\t{self.seconds[op]:.1f}")
        total = collections.Counter(self.verdicts.values())
        lines.append(f"all {len(operations)}\t{total['OK']}\t{total['FAIL']}\t{total['CRASH']}\t{total['unsupported']}"
                     f"\t{sum(self.seconds.values()):.1f}")
        return "\n".join(lines) + "\n"


def run_batch(home, env, batch, results, timeout):
    """Runs cases of one process; returns those that it did not get to."""
    command = [home / "bin" / "test-backend-ops", "test", "-b", BACKEND, "-o", ",".join(map(name, batch))]
    start = time.monotonic()
    # Kept apart from standard output, whose lines it would split.
    with tempfile.TemporaryFile("w+", errors="replace") as log, \
         subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=log, text=True, errors="replace") as process:
        by_name = {name(case): case for case in batch}
        said, last = [], start
        with contextlib.ExitStack() as stack:
            stack.callback(process.kill)
            timer = threading.Timer(timeout, process.kill)
            stack.callback(timer.cancel)
            timer.start()
            for line in process.stdout:
                line = COLOUR.sub("", line.rstrip("\n"))
                match = RESULT.match(line)
                case = by_name.get(match["case"]) if match else None
                if case is None:
                    said.append(line)
                    continue
                now = time.monotonic()
                results.seconds[case.op] += now - last
                last = now
                verdict = match["verdict"] if match["verdict"] in ("OK", "FAIL") else "unsupported"
                results.verdicts[case] = verdict
                if verdict == "FAIL":
                    results.reasons[case] = " ".join(said[-2:])
                said.clear()
            process.wait()
        log.seek(0)
        said += log.read().splitlines()[-8:]
    left = [case for case in batch if case not in results.verdicts]
    if left:
        results.verdicts[left[0]] = "CRASH"
        results.reasons[left[0]] = f"status {process.returncode}: " + " | ".join(text for text in said if text.strip())
    return left[1:]


def run(home, env, cases, timeout, progress=lambda text: None):
    """Runs the cases; returns their Results. A process may take `timeout` seconds."""
    results = Results()
    for start in range(0, len(cases), BATCH):
        left = cases[start:start + BATCH]
        while left:
            left = run_batch(home, env, left, results, timeout)
            bad = len(results.of("FAIL", "CRASH"))
            progress(f"{len(results.verdicts)} of {len(cases)} cases, {bad} bad")
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", choices=["softgpu", "vgpud"], required=True)
    parser.add_argument("--cases", choices=["few", "all"], default="few")
    parser.add_argument("--ops", default="", help="only operations that match this expression")
    parser.add_argument("--table", type=pathlib.Path, help="write the table to this file")
    parser.add_argument("--timeout", type=float, default=600, help="of one process, in seconds")
    options = parser.parse_args()

    home = engine.home()
    with engine.device(options.on) as env:
        cases = all_cases(home, env)
        if options.cases == "few":
            cases = select_few(cases)
        cases = [case for case in cases if re.search(options.ops, case.op)]
        results = run(home, env, cases, options.timeout, lambda text: print(text, file=sys.stderr, flush=True))
    for case in results.of("FAIL", "CRASH"):
        print(f"{results.verdicts[case]} {name(case)}\n    {results.reasons.get(case, '')}")
    table = results.table()
    print(table, end="")
    if options.table:
        options.table.write_text(table)
    sys.exit(1 if results.of("FAIL", "CRASH") else 0)


if __name__ == "__main__":
    main()
