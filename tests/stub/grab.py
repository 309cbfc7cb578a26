#!/usr/bin/env python3
"""grab.py MEGABYTES START_AT HOLD: a process that allocates device memory at a moment, as several can at once, says with what
result and what cuMemGetInfo then shows (free, total), and keeps it for so many seconds.
"""

import ctypes
import sys
import time

cuda = ctypes.CDLL("libcuda.so.1")


def call(name, *arguments):
    result = getattr(cuda, name)(*arguments)
    if result != 0:
        sys.exit(f"{name}: {result}")


device, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
while time.time() < float(sys.argv[2]):
    pass
result = cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(int(sys.argv[1]) << 20))
time.sleep(0.3)
call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
print(result, free.value, total.value, flush=True)
time.sleep(float(sys.argv[3]))
