"""llama.cpp's llama-bench as a client: one or several processes at once, natively or through vgpud."""

import json
import os
import pathlib
import subprocess
import time

DECODE = ("-p", "0", "-n", "128", "-r", "4")
PROMPT = ("-p", "512", "-n", "0", "-r", "8")


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

    def all_rates(self, environment):
        """What one process reaches: name -> seconds or tokens a second."""
        self.first_token_seconds(environment)  # the model's file is then in memory for all alike
        return {"load + first token, s": self.first_token_seconds(environment),
                "decode with graphs, tokens/s": self.rates(environment)[0],
                "decode without graphs, tokens/s": self.rates(environment, graphs=False)[0],
                "prompt, tokens/s": self.rates(environment, work=PROMPT)[0]}
