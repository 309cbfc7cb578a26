"""High-priority PyTorch inference beside a PyTorch training job: how much longer its steps take than alone, and what the job
keeps; by time slices and under NVIDIA MPS natively, through vgpud with workers in turns and under MPS. Used by bench/gpu/run.

    priority.py inference | training      the programs themselves; for each line `SECONDS` of input they work so long and
                                          print: steps, p50 and p99 in ms
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

WINDOW = 6.0  # seconds
PAUSE = 0.005  # between two inference steps, seconds


def inference():
    """Eager inference of one sequence by an encoder of BERT's base size, in half precision; returns the step function."""
    import torch
    from torch import nn
    torch.manual_seed(5)
    layer = nn.TransformerEncoderLayer(768, 12, 3072, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False).to("cuda", torch.float16).eval()
    batch = torch.randn(1, 128, 768, generator=torch.Generator().manual_seed(6)).to("cuda", torch.float16)

    def step():
        with torch.inference_mode():
            return model(batch)

    return step


def serve(work):
    """The program: warms up, says `ready`, then answers each line of input until its end."""
    import torch
    import torch_steps
    step = torch_steps.training() if work == "training" else inference()
    for _ in range(20):
        step()
    torch.cuda.synchronize()
    print("ready", flush=True)
    for line in sys.stdin:
        times = []
        end = time.perf_counter() + float(line)
        while time.perf_counter() < end:
            began = time.perf_counter()
            step()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
            if work == "inference":
                time.sleep(PAUSE)
        times.sort()
        print(len(times), *(times[min(len(times) - 1, int(len(times) * part))] * 1e3 for part in (0.5, 0.99)), flush=True)


@contextlib.contextmanager
def interpreters():
    """Two copies of this Python, {work: path}: the policy's rules tell programs apart by their path."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vgpud-bench-"))
    try:
        yield {work: shutil.copy2(os.path.realpath(sys.executable), folder / work) for work in ("inference", "training")}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Pair:
    """Both programs in an environment, warm; a context manager."""

    def __init__(self, harness, pythons, environment):
        self.harness = harness
        self.pythons = pythons
        # A copy elsewhere does not find this one's packages by itself.
        self.environment = {**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def __enter__(self):
        self.programs = {work: subprocess.Popen([python, __file__, work], env=self.environment, text=True,
                                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                         for work, python in self.pythons.items()}
        for program in self.programs.values():
            self.harness.first_line(program, 120)
        return self

    def __exit__(self, *_):
        for program in self.programs.values():
            program.communicate(timeout=60)

    def take(self, *works):
        """What each says of one window in which they all work: (steps, p50 ms, p99 ms)."""
        for work in works:
            self.programs[work].stdin.write(f"{WINDOW}\n")
            self.programs[work].stdin.flush()
        return [tuple(map(float, self.harness.first_line(self.programs[work], 60).split())) for work in works]


def compare(harness, table):
    from mps import NativeMps

    with interpreters() as pythons:
        def row(where, environment):
            with Pair(harness, pythons, environment) as pair:
                (alone,), (busy,) = pair.take("inference"), pair.take("training")
                beside, kept = pair.take("inference", "training")
            left = 1 - beside[0] * alone[1] / 1e3 / WINDOW
            table.say(f"PyTorch inference beside training, {where}: p50 {alone[1]:.2f} ms alone, {beside[1]:.2f} beside "
                      f"({beside[1] / alone[1]:.2f}), p99 {alone[2]:.2f} and {beside[2]:.2f} ({beside[2] / alone[2]:.2f}, "
                      f"goal 1.10); training keeps {kept[0] / busy[0] / left:.2f} of what is left (goal 0.8)")

        row("time slices", dict(os.environ))
        with NativeMps() as environment:
            if environment:
                row("NVIDIA MPS", environment)
        classes = {"default": {}, "high": {"priority": "high"}, "low": {"priority": "low"}}
        rules = [(str(pythons["inference"]), "high"), (str(pythons["training"]), "low")]
        for sharing in ("isolated", "mps"):
            with harness.Service(classes=classes, rules=rules, device=f"sharing: {sharing}") as service:
                service.wait_for_workers()
                row(f"vgpud, {sharing}", service.environment())


if __name__ == "__main__":
    serve(sys.argv[1])
