#!/usr/bin/env python3
"""Prints, as JSON, what libcuda.so.1 and libnvidia-ml.so.1 show to a process: {"init": the result of cuInit, "cuda":
[UUID, ...], "nvml": [UUID, ...] or its error}.

    seen_devices.py [--nvml-first] [--wait] [--set VALUE] [--fork]

--nvml-first asks NVML before CUDA, with --wait it says so and goes on after a line of standard input; --set changes CUDA_VISIBLE_DEVICES after cuDriverGetVersion and before cuInit; --fork lets a child go on from there.
"""

import argparse
import ctypes
import json
import os
import sys
import uuid


def cuda_devices(cuda):
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    found = []
    for ordinal in range(count.value):
        device = ctypes.c_int()
        identity = (ctypes.c_ubyte * 16)()
        if cuda.cuDeviceGet(ctypes.byref(device), ordinal) or cuda.cuDeviceGetUuid_v2(identity, device):
            raise SystemExit("a device that was counted is not there")
        found.append(f"GPU-{uuid.UUID(bytes=bytes(identity))}")
    return found


def nvml_devices():
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    if error := nvml.nvmlInit_v2():
        return error
    count = ctypes.c_uint()
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    found = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        text = ctypes.create_string_buffer(96)
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) or nvml.nvmlDeviceGetUUID(handle, text, 96):
            raise SystemExit("a device that was counted is not there")
        found.append(text.value.decode())
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nvml-first", action="store_true")
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--set")
    parser.add_argument("--fork", action="store_true")
    options = parser.parse_args()
    cuda = ctypes.CDLL("libcuda.so.1")
    seen = {}
    if options.nvml_first:
        seen["nvml"] = nvml_devices()
        if options.wait:
            print("ready", flush=True)
            sys.stdin.readline()
    if options.set is not None:
        version = ctypes.c_int()
        cuda.cuDriverGetVersion(ctypes.byref(version))
        os.environ["CUDA_VISIBLE_DEVICES"] = options.set
        if options.fork and (child := os.fork()):
            raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    seen["init"] = cuda.cuInit(0)
    seen["cuda"] = cuda_devices(cuda) if seen["init"] == 0 else []
    if not options.nvml_first:
        seen["nvml"] = nvml_devices()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
