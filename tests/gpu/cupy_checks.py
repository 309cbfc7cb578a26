"""CuPy: raw kernels through NVRTC, sorting, FFT, linear algebra, random numbers, streams, pinned memory."""

import sys

import cupy
import numpy

from checking import check, run

SOURCE = r"""
extern "C" __global__ void fused(const float* a, const float* b, float* out, int n, float scale) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = fmaf(a[i], scale, b[i]) + sinf(a[i]);
}
"""


def seeded(*shape):
    return cupy.asarray(numpy.random.default_rng(5).standard_normal(shape).astype(numpy.float32))


@check
def raw_kernel():
    kernel = cupy.RawKernel(SOURCE, "fused")
    a, b = seeded(10_000), seeded(10_000)
    out = cupy.empty_like(a)
    kernel((40,), (256,), (a, b, out, numpy.int32(a.size), numpy.float32(1.5)))
    return out


@check
def raw_module_with_templates():
    module = cupy.RawModule(code="template<typename T> __global__ void twice(T* x) { x[threadIdx.x] *= 2; }",
                            options=("-std=c++17",), name_expressions=("twice<float>", "twice<double>"))
    single, double = seeded(32), seeded(32).astype(cupy.float64)
    module.get_function("twice<float>")((1,), (32,), (single,))
    module.get_function("twice<double>")((1,), (32,), (double,))
    return single, double


@check
def sorting():
    x = seeded(50_000)
    return cupy.sort(x), cupy.argsort(x)[:100], cupy.unique((x * 3).astype(cupy.int32)), cupy.cumsum(x)


@check
def fourier_and_linear_algebra():
    x = seeded(64, 64)
    spd = x @ x.T + 64 * cupy.eye(64, dtype=cupy.float32)
    return cupy.abs(cupy.fft.fft2(x)), cupy.linalg.cholesky(spd), cupy.linalg.eigvalsh(spd), cupy.linalg.svd(x)[1]


@check
def random_numbers():
    generator = cupy.random.default_rng(3)
    cupy.random.seed(4)
    return generator.random(1000), cupy.random.rand(1000), cupy.random.permutation(1000)


@check
def elementwise_and_reduction():
    kernel = cupy.ElementwiseKernel("T x, T y", "T z", "z = x * y + 1", "fused_multiply")
    x = seeded(1000)
    return kernel(x, x), cupy.ReductionKernel("T x", "T y", "x * x", "a + b", "y = a", "0", "squares")(x)


@check
def streams_and_pinned_memory():
    stream = cupy.cuda.Stream(non_blocking=True)
    memory = cupy.cuda.alloc_pinned_memory(4096)
    host = numpy.frombuffer(memory, numpy.float32, 1024)
    host[:] = numpy.arange(1024)
    with stream:
        x = cupy.empty(1024, cupy.float32)
        x.set(host, stream)
        y = x * 2
    stream.synchronize()
    return y


@check
def graph_capture():
    stream = cupy.cuda.Stream(non_blocking=True)
    x = seeded(256)
    with stream:
        y = x * 2
        stream.begin_capture()
        y += x
        graph = stream.end_capture()
        for _ in range(10):
            graph.launch(stream)
    stream.synchronize()
    return y


@check
def memory_questions():
    free, total = cupy.cuda.runtime.memGetInfo()
    assert 0 < free <= total
    return cupy.array([cupy.cuda.runtime.getDeviceCount(), cupy.cuda.Device(0).attributes["WarpSize"]])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
