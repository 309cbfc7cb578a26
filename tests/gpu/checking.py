"""What the checks of Python frameworks share: a registry of checks and a runner that prints one JSON line for each.

A check is a function that computes something on the GPU from fixed seeds and returns arrays; the runner hashes them. The
comparison of a native run with one through vgpud is made by compare.py. Nothing here knows of vgpud.
"""

import hashlib
import json
import sys
import time
import traceback

_checks = []


def check(function):
    """Registers a check; its name is the function's."""
    _checks.append(function)
    return function


def _flatten(value):
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flatten(item)
    else:
        yield value


def _to_numpy(value):
    import numpy

    if hasattr(value, "detach"):  # a PyTorch tensor
        value = value.detach()
        if str(value.dtype) in ("torch.bfloat16", "torch.float8_e4m3fn"):
            value = value.float()
        return value.cpu().numpy()
    if hasattr(value, "get") and not isinstance(value, dict):  # a CuPy array
        return value.get()
    return numpy.asarray(value)


def run(arguments):
    """Runs the checks named (all when none is) in order; prints {"name", "seconds", "hash", "norm"} or {"error"} each."""
    import numpy

    wanted = set(arguments)
    failed = 0
    for function in _checks:
        name = function.__name__
        if wanted and name not in wanted:
            continue
        start = time.monotonic()
        line = {"name": name}
        try:
            arrays = [_to_numpy(value) for value in _flatten(function())]
            digest = hashlib.sha256()
            for array in arrays:
                digest.update(str(array.dtype).encode() + str(array.shape).encode() + numpy.ascontiguousarray(array).tobytes())
            line["hash"] = digest.hexdigest()[:16]
            line["norm"] = [float(numpy.linalg.norm(array.astype(numpy.float64).ravel())) for array in arrays
                            if array.dtype.kind in "fiub" and array.size]
        except Exception as error:  # every failure of a check is its result
            failed += 1
            line["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error) else ''}"
            traceback.print_exc(file=sys.stderr)
        line["seconds"] = round(time.monotonic() - start, 3)
        print(json.dumps(line), flush=True)
    return failed
