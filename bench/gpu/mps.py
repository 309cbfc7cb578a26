"""NVIDIA's multi-process service for native comparisons: a control daemon of one's own, in a folder of its own."""

import os
import pathlib
import shutil
import subprocess
import tempfile

CONTROL = shutil.which("nvidia-cuda-mps-control") or next(
    (path for path in ("/usr/local/nvidia/bin/nvidia-cuda-mps-control", "/usr/bin/nvidia-cuda-mps-control")
     if os.access(path, os.X_OK)), None)


class NativeMps:
    """Context manager: the environment of a native client under MPS; None where MPS is not installed or does not start."""

    def __enter__(self):
        if CONTROL is None:
            return None
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="vgpud-bench-mps-"))
        self.environment = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(self.folder), "CUDA_MPS_LOG_DIRECTORY": str(self.folder)}
        started = subprocess.run([CONTROL, "-d"], env=self.environment, check=False, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        return self.environment if started.returncode == 0 else None

    def __exit__(self, *_):
        if CONTROL is not None:
            subprocess.run([CONTROL], env=self.environment, input="quit -t 2\n", text=True, check=False,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            shutil.rmtree(self.folder, ignore_errors=True)
