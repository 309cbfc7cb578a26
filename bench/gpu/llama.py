"""llama.cpp's llama-bench as a client: one or several processes at once, natively or through vgpud."""

import json
import os
import pathlib
import statistics
import subprocess
import time

# Long enough that neither the start of a process, of which several do not begin at one moment, nor single tokens count.
DECODE = ("-p", "0", "-n", "128", "-r", "12")
PROMPT = ("-p", "512", "-n", "0", "-r", "80")
ROUNDS = 3


class Engine:
    """A folder with llama-bench and its libraries, and a model for it."""

    def __init__(self, folder, model):
        self.folder = pathlib.Path(folder).resolve()
        self.model = pathlib.Path(model).resolve()

    def start(self, environment, work, graphs=True):
        libraries = [environment.get("LD_LIBRARY_PATH", ""), str(self.folder), "/usr/local/cuda/lib64"]
        environment = {**environment, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries))}
        if not graphs:
            environment["GGML_CUDA_DISABLE_GRAPHS"] = "1"
        return subprocess.Popen([self.folder / "llama-bench", "-m", self.model, "-ngl", "99", "-fa", "1", "-o", "json", *work],
                                env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def rates(self, environment, count=1, work=DECODE, graphs=True, timeout=120):
        """Tokens a second of each of `count` processes at once; 0 for one that failed."""
        processes = [self.start(environment, work, graphs) for _ in range(count)]
        found = []
        for process in processes:
            try:
                output, errors = process.communicate(timeout=timeout)
                found.append(json.loads(output)[0]["avg_ts"])
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                found.append(0.0)
            except (ValueError, LookupError):
                print(f"  llama-bench failed: {errors.strip().splitlines()[-3:]}")
                found.append(0.0)
        return found

    def first_token_seconds(self, environment):
        """Seconds of a whole process that loads the model and makes one token."""
        start = time.monotonic()
        self.rates(environment, work=("-p", "0", "-n", "1", "-r", "1", "--no-warmup"))
        return time.monotonic() - start

    def all_rates(self, *environments, rounds=ROUNDS):
        """What one process reaches in each environment, in turn, the median of `rounds`: for each, name -> seconds or
        tokens a second. In turn, since a card that has been idle runs faster for a while."""
        kinds = {"load + first token, s": self.first_token_seconds,
                 "decode with graphs, tokens/s": lambda where: self.rates(where)[0],
                 "decode without graphs, tokens/s": lambda where: self.rates(where, graphs=False)[0],
                 "prompt, tokens/s": lambda where: self.rates(where, work=PROMPT)[0]}
        self.first_token_seconds(environments[0])  # the model's file is then in memory for all alike
        found = [{} for _ in environments]
        for what, measure in kinds.items():
            in_turn = [[measure(where) for where in environments] for _ in range(rounds)]
            for place, values in enumerate(zip(*in_turn)):
                found[place][what] = statistics.median(values)
        return found
