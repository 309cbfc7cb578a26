#!/usr/bin/env python3
"""Runs llama.cpp's test-backend-ops on the CUDA backend and makes a table of it: every case compares the engine's CUDA
kernels with its own CPU backend.

    backend_ops.py --on softgpu|vgpud|native [--cases few|all] [--ops REGEX] [--journal FILE] [--table FILE] [--seconds N]
                   [--jobs N]

`few` is a representative selection: every operation with every combination of types, the smallest cases of each. `all` is
every case that both backends support, small ones first; with a journal it can be stopped (also by --seconds) and goes on
where it was. A case whose error is above its limit by a quarter at most is run four times more with other random numbers, and
has failed if three of the five have: a sum of three f16 tensors that rounds once has an error of 0.9 of its limit against the
CPU backend, which rounds twice, and is above it in one run of twenty. Through vgpud the launches of each group of cases are counted: a group that gave the device less to do than
it has cases has failed, whatever it computed. `--jobs` runs groups in so many processes at once, through vgpud as so many
clients. On a machine with an NVIDIA GPU, VGPU_TEST_DEVICE=cuda makes vgpud serve the card, and `native` does without vgpud.
The exit status is 0 when no case failed.
"""

import argparse
import collections
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
MOST_A_GROUP = 64
MANY = 1 << 24  # Larger cases are left to `all`, unless an operation has no smaller one.
# Calls that make the device compute or move: what a case must cause at least one of.
DEVICE_CALLS = re.compile(r"cuLaunch|cuGraphLaunch|cuMemcpyDtoD|cuMemcpyAsync|copy_3d|cuMemset|extension_blas")
VERDICTS = ("OK", "FAIL", "CRASH", "UNSUPPORTED", "NO WORK")
BAD = ("FAIL", "CRASH", "NO WORK")
CLOSE = 1.25  # times its limit: an error that other random numbers may bring below it
DRAWS = 5

Case = collections.namedtuple("Case", "index full op parameters")


def name(case):
    return f"{case.op}({case.parameters})"


def all_cases(home, env):
    """Every case that both backends support, fused ones too, in the program's order."""
    done = subprocess.run([home / "bin" / "operations", "list"], check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env=env)
    if done.returncode != 0:
        raise SystemExit(f"test-backend-ops does not see the device:\n{done.stderr[-4000:]}")
    rows = [line.split("\t") for line in done.stdout.splitlines() if re.match(r"\d+\t[01]\t[01]\t", line)]
    return [Case(int(index), full == "1", op, parameters) for index, supported, full, op, parameters in rows
            if supported == "1"]


def signature(case):
    """What distinguishes cases in kind rather than in size: all values that are not numbers."""
    values = re.split(r",(?=[a-zA-Z_])", case.parameters)
    return case.op, tuple(value for value in values if not re.search(r"=[\[\]\d.,e+-]*$", value))


def size(case):
    """A rough measure of a case's work: the product of its dimensions."""
    product = 1
    for number in re.findall(r"(?<![a-zA-Z_\d])\d+", case.parameters):
        product *= max(1, int(number))
    return product


def kinds(case):
    """What a selection must have at least one case of: the operation, and the operation with each of its types."""
    return {case.op} | {(case.op, value) for value in re.findall(r"\btype\w*=\w+", case.parameters)}


def select_few(cases):
    """The smallest case of each kind, then the smallest of every signature in turn until there are FEW."""
    chosen, covered = set(), set()
    for case in sorted(cases, key=size):
        if not kinds(case) <= covered and (size(case) <= MANY or case.op not in covered):
            chosen.add(case)
            covered |= kinds(case)
    by_signature = collections.defaultdict(list)
    for case in sorted(cases, key=size):
        if size(case) <= MANY:
            by_signature[signature(case)].append(case)
    for turn in range(PER_SIGNATURE):
        for group in sorted((group for group in by_signature.values() if len(group) > turn), key=lambda group: size(group[turn])):
            if len(chosen) < FEW:
                chosen.add(group[turn])
    return [case for case in cases if case in chosen]


def groups(cases):
    """Cases of one operation and of like size, small ones first; large groups in parts that several processes can share."""
    by_key = collections.defaultdict(list)
    for case in cases:
        by_key[size(case).bit_length() // 4, case.op].append(case)
    return [by_key[key][at:at + MOST_A_GROUP] for key in sorted(by_key) for at in range(0, len(by_key[key]), MOST_A_GROUP)]


class Results:
    """What became of the cases, and how long each took. add() is thread-safe."""

    def __init__(self, journal=None):
        self.verdicts, self.reasons, self.seconds = {}, {}, {}
        self.journal = journal
        self.lock = threading.Lock()

    def read(self, cases):
        """Takes over what the journal says of these cases, in which a later line overrides."""
        by_index = {case.index: case for case in cases}
        for line in self.journal.read_text().splitlines() if self.journal and self.journal.exists() else []:
            index, verdict, seconds, reason = line.split("\t")
            if int(index) in by_index:
                self.add(by_index[int(index)], verdict, float(seconds), reason, write=False)

    def add(self, case, verdict, seconds, reason="", write=True):
        with self.lock:
            self.verdicts[case], self.seconds[case] = verdict, seconds
            self.reasons[case] = " ".join(reason.split())
            if write and self.journal:
                with self.journal.open("a") as out:
                    out.write(f"{case.index}\t{verdict}\t{seconds:.3f}\t{self.reasons[case]}\n")

    def of(self, *verdicts):
        return [case for case, verdict in list(self.verdicts.items()) if verdict in verdicts]

    def bad(self):
        return [f"{self.verdicts[case]} {name(case)}: {self.reasons[case]}" for case in self.of(*BAD)]

    def table(self, cases):
        counts, seconds = collections.defaultdict(collections.Counter), collections.Counter()
        for case in cases:
            for row in (case.op, "all"):
                counts[row][self.verdicts.get(case, "not run")] += 1
                seconds[row] += self.seconds.get(case, 0)
        heads = [*VERDICTS, "not run"]
        lines = ["\t".join(["operation", "cases", *(head.lower() for head in heads), "seconds"])]
        for row in sorted(counts, key=lambda row: (row == "all", row)):
            label = f"all {len(counts) - 1}" if row == "all" else row
            lines.append("\t".join([label, str(sum(counts[row].values())), *(str(counts[row][head]) for head in heads),
                                    f"{seconds[row]:.1f}"]))
        return "\n".join(lines) + "\n"


class Process:
    """One run of the program, told case by case what to do."""

    def __init__(self, home, env):
        # Standard error is kept apart, so that it cannot split the answers.
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  (closed with the process)
        self.process = subprocess.Popen([home / "bin" / "operations", "run"], env=env, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log, text=True, errors="replace")

    def run(self, case, timeout):
        """(verdict, seconds, reason); after CRASH the process is gone."""
        said = []
        start = time.monotonic()
        timer = threading.Timer(timeout, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(f"{case.index}\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                match = re.match(rf"= {case.index} (OK|FAIL|UNSUPPORTED) ([\d.]+)$", line)
                if match:
                    return match[1], float(match[2]) / 1000, " ".join(said)
                said.append(line)
        except BrokenPipeError:
            pass
        finally:
            timer.cancel()
        status = self.process.wait()
        self.log.seek(0)
        said += self.log.read().splitlines()[-8:]
        self.close()
        return "CRASH", time.monotonic() - start, f"status {status}: " + " ".join(said)

    def close(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def is_close(reason):
    """Whether errors barely above their limits are all that a failed case complains of."""
    errors = re.findall(r"ERR = ([\d.]+) > ([\d.]+)", reason)
    return bool(errors) and all(float(error) <= CLOSE * float(limit) for error, limit in errors)


def draw_again(run_once, first):
    """The result of most of DRAWS runs of a case, the `first` among them; each has random numbers of its own."""
    draws = [first]
    while len(draws) < DRAWS and draws[-1][0] != "CRASH":
        draws.append(run_once())
    failed = [draw for draw in draws if draw[0] != "OK"]
    seconds = sum(draw[1] for draw in draws)
    hard = [draw for draw in failed if draw[0] != "FAIL" or not is_close(draw[2])]
    if hard or len(failed) > DRAWS // 2:
        worst = (hard or failed)[-1]
        return worst[0], seconds, f"{len(failed)} of {len(draws)} draws: {worst[2]}"
    return "OK", seconds, ""


def device_calls(service, pids):
    """How many calls that make the device work vgpud has seen of these processes, now and before."""
    rows = service.stats("--calls")
    return sum(count for row in rows["clients"] + rows["ended"] if row["pid"] in pids
               for call, count in row.get("calls", {}).items() if DEVICE_CALLS.match(call))


class Runner:
    """Runs groups of cases, one after another in a process that it starts when need be. One thread at a time."""

    def __init__(self, home, env, results, service, timeout, until):
        self.home, self.env, self.results, self.service, self.timeout, self.until = home, env, results, service, timeout, until
        self.process = None
        self.pids = set()

    def late(self):
        return self.until is not None and time.monotonic() > self.until

    def start(self):
        process = Process(self.home, self.env)
        self.pids.add(process.process.pid)
        return process

    def run_alone(self, case):
        """A case in a process of its own: the program can run each case once."""
        process = self.start()
        result = process.run(case, self.timeout)
        if result[0] != "CRASH":
            process.close()
        return result

    def run_case(self, case):
        self.process = self.process or self.start()
        result = self.process.run(case, self.timeout)
        if result[0] == "FAIL" and is_close(result[2]):
            result = draw_again(lambda: self.run_alone(case), result)
        if result[0] == "CRASH":
            self.process = None
        self.results.add(case, *result)
        return result[0]

    def run(self, group):
        """Returns how many calls that make the device work the group caused (without a service: how many it must have)."""
        before = device_calls(self.service, self.pids) if self.service else 0
        done = []
        for case in group:
            if self.late():
                break
            if self.run_case(case) == "OK" and case.full:
                done.append(case)
        work = device_calls(self.service, self.pids) - before if self.service else len(done)
        if work < len(done):
            for case in done:
                self.results.add(case, "NO WORK", self.results.seconds[case], f"{work} device calls for {len(done)} cases")
        return work

    def close(self):
        if self.process is not None:
            self.process.close()


def run(home, env, cases, results, service=None, timeout=600, until=None, progress=lambda text: None, jobs=1):
    """Runs the cases that results has no verdict of, in `jobs` processes at once. `service`: counts the device's work there.
    A case may take `timeout` seconds; none is begun after `until` (time.monotonic())."""
    todo = collections.deque(filter(None, ([case for case in group if case not in results.verdicts] for group in groups(cases))))
    problems = []

    def work():
        runner = Runner(home, env, results, service, timeout, until)
        try:
            while todo and not runner.late() and not problems:
                try:
                    group = todo.popleft()
                except IndexError:
                    break
                calls = runner.run(group)
                progress(f"{len(results.verdicts)} of {len(cases)} cases, {len(results.of(*BAD))} bad, "
                         f"{group[0].op}: {calls} device calls")
        except BaseException as error:
            problems.append(error)
        finally:
            runner.close()

    threads = [threading.Thread(target=work) for _ in range(jobs - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", choices=["softgpu", "vgpud", "native"], required=True)
    parser.add_argument("--cases", choices=["few", "all"], default="few")
    parser.add_argument("--ops", default="", help="only operations that match this expression")
    parser.add_argument("--journal", type=pathlib.Path, help="append each result to this file; skip what is in it")
    parser.add_argument("--table", type=pathlib.Path, help="write the table to this file")
    parser.add_argument("--seconds", type=float, help="begin no case after so long")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--timeout", type=float, default=600, help="of one case, in seconds")
    options = parser.parse_args()

    home = engine.home()
    results = Results(options.journal)
    until = None if options.seconds is None else time.monotonic() + options.seconds
    with engine.device(options.on) as (env, service):
        cases = all_cases(home, env)
        if options.cases == "few":
            cases = select_few(cases)
        cases = [case for case in cases if re.search(options.ops, case.op)]
        results.read(cases)
        run(home, env, cases, results, service, options.timeout, until,
            lambda text: print(text, file=sys.stderr, flush=True), options.jobs)
    print("\n".join(results.bad()))
    table = results.table(cases)
    print(table, end="")
    if options.table:
        options.table.write_text(table)
    sys.exit(1 if results.of(*BAD) else 0)


if __name__ == "__main__":
    main()
