"""llama.cpp's prebuilt engine as the tests use it: where it is, its models, a run of it on a device."""

import array
import contextlib
import functools
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))

import harness  # noqa: E402  (the path must be set first)

# Without it the engine starts a debugger on itself when it fails.
QUIET = {"GGML_NO_BACKTRACE": "1"}
CUBLAS = harness.CUBLAS


@functools.cache
def home():
    """The engine's folder: VGPUD_ENGINE_HOME, or what setup.sh prepares if need be."""
    if "VGPUD_ENGINE_HOME" in os.environ:
        return pathlib.Path(os.environ["VGPUD_ENGINE_HOME"]).resolve()
    found = subprocess.run([HERE / "setup.sh"], check=True, stdout=subprocess.PIPE, text=True)
    return pathlib.Path(found.stdout.strip().splitlines()[-1])


@functools.cache
def model(kind, seed=1, **sizes):
    """A GGUF file with random weights in the given format; `sizes` as mkgguf.py's options (layers=4)."""
    name = "-".join([kind, str(seed)] + [f"{key}{value}" for key, value in sorted(sizes.items())])
    writer = HERE / "mkgguf.py"
    path = home() / "models" / f"{name}.gguf"
    if not path.exists() or path.stat().st_mtime < writer.stat().st_mtime:
        options = [word for key, value in sizes.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        fresh = path.with_suffix(f".{os.getpid()}")
        subprocess.run([sys.executable, writer, fresh, "--type", kind, "--seed", str(seed), *options], check=True)
        fresh.rename(path)
    return path


def environment(libraries, **more):
    """The caller's environment with these folders first on the library path."""
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, [*libraries, home() / "bin"])), **QUIET, **more}


@contextlib.contextmanager
def device(kind, **options):
    """(environment, service): the engine finds the software GPU alone (`softgpu`, no service), the machine's own GPU
    (`native`, no service) or a private `vgpud`."""
    if kind == "native":
        yield environment([]), None
        return
    if kind == "softgpu":
        yield environment([harness.SOFTWARE_GPU, CUBLAS]), None
        return
    with harness.Service(**options) as service:
        yield service_environment(service), service


def service_environment(service, **more):
    """The environment of a client of this harness.Service."""
    found = environment(harness.CLIENT_LIBRARIES)["LD_LIBRARY_PATH"]
    return {**service.environment(**QUIET, **more), "LD_LIBRARY_PATH": found}


class Output:
    """What a run of vgpud-generate printed."""

    def __init__(self, text, logits):
        self.text = text
        self.values = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
        self.logits = logits

    @property
    def tokens(self):
        return [int(token) for token in self.values["tokens"].split()]

    def number(self, key):
        return float(self.values[key])


def command(path, prompt_length=42, tokens=16, flash=False, gpu=True, logits=None):
    words = [home() / "bin" / "vgpud-generate", "--model", path, "--prompt-length", prompt_length, "--tokens", tokens,
             "--flash", int(flash), "--gpu-layers", 99 if gpu else 0,
             "--threads", 1]  # of the CPU backend, whose threads spin for each other
    return [str(word) for word in words + (["--logits", logits] if logits else [])]


def generate(path, env=None, timeout=300, **options):
    """Runs the model greedily; on the CPU backend when env is None. Raises AssertionError with the output if it fails."""
    logits = home() / f"logits.{os.getpid()}"
    try:
        done = subprocess.run(command(path, gpu=env is not None, logits=logits, **options), env=env or dict(os.environ),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise AssertionError(f"vgpud-generate ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        values = array.array("f")
        values.frombytes(logits.read_bytes())
        return Output(done.stdout, values)
    finally:
        logits.unlink(missing_ok=True)


def distance(first, second):
    """Normalised mean square error of logits, as llama.cpp's own tests measure it."""
    return sum((a - b) ** 2 for a, b in zip(first, second)) / sum(a * a for a in first)
