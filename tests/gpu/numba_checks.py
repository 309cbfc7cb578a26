"""Numba: kernels compiled in the process and linked by the driver or nvJitLink."""

import math
import sys

import numpy
from numba import cuda, float32

from checking import check, run


@cuda.jit
def saxpy(a, x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = a * x[i] + y[i]


@cuda.jit
def tiled(a, b, c):
    left = cuda.shared.array((16, 16), float32)
    right = cuda.shared.array((16, 16), float32)
    x, y = cuda.grid(2)
    total = float32(0)
    for tile in range(a.shape[0] // 16):
        left[cuda.threadIdx.x, cuda.threadIdx.y] = a[x, tile * 16 + cuda.threadIdx.y]
        right[cuda.threadIdx.x, cuda.threadIdx.y] = b[tile * 16 + cuda.threadIdx.x, y]
        cuda.syncthreads()
        for k in range(16):
            total += left[cuda.threadIdx.x, k] * right[k, cuda.threadIdx.y]
        cuda.syncthreads()
    c[x, y] = total


@cuda.jit
def functions(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = math.sin(x[i]) + math.exp(-x[i] * x[i]) + math.atan2(x[i], 2.0)


def seeded(*shape):
    return numpy.random.default_rng(9).standard_normal(shape).astype(numpy.float32)


@check
def axpy():
    y = cuda.to_device(seeded(10_000))
    saxpy[40, 256](2.5, cuda.to_device(seeded(10_000)), y)
    return y.copy_to_host()


@check
def shared_memory_product():
    a, b = seeded(64, 64), seeded(64, 64)
    c = cuda.device_array((64, 64), numpy.float32)
    tiled[(4, 4), (16, 16)](cuda.to_device(a), cuda.to_device(b), c)
    result = c.copy_to_host()
    assert numpy.allclose(result, a @ b, atol=1e-3)
    return result


@check
def mathematics():
    y = cuda.device_array(1000, numpy.float64)
    functions[4, 256](cuda.to_device(seeded(1000).astype(numpy.float64)), y)
    return y.copy_to_host()


@check
def atomics_and_reduction():
    total = cuda.reduce(lambda a, b: a + b)
    return numpy.array([total(cuda.to_device(numpy.arange(10_000, dtype=numpy.int64)))])


@check
def mapped_and_pinned():
    with cuda.pinned(array := seeded(4096)):
        device = cuda.to_device(array, stream=cuda.stream())
        cuda.synchronize()
        return device.copy_to_host()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
