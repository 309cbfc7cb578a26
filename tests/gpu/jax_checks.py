"""JAX: jit, grad, linear algebra, FFT, random numbers, a scan."""

import os
import sys

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")

import jax
import jax.numpy as jnp

from checking import check, run


@check
def on_the_gpu():
    assert jax.devices()[0].platform == "gpu", jax.devices()
    return jnp.arange(8) * 2


@check
def jit_and_grad():
    def loss(weights, data):
        return jnp.mean(jnp.tanh(data @ weights) ** 2)
    weights = jax.random.normal(jax.random.key(0), (128, 64))
    data = jax.random.normal(jax.random.key(1), (32, 128))
    step = jax.jit(jax.value_and_grad(loss))
    for _ in range(10):
        value, gradient = step(weights, data)
        weights = weights - 0.1 * gradient
    return value, weights


@check
def linear_algebra():
    a = jax.random.normal(jax.random.key(2), (64, 64))
    spd = a @ a.T + 64 * jnp.eye(64)
    return jnp.linalg.cholesky(spd), jnp.linalg.eigvalsh(spd), jnp.linalg.solve(spd, a)


@check
def fourier():
    x = jax.random.normal(jax.random.key(3), (16, 256))
    return jnp.abs(jnp.fft.fft(x)), jnp.fft.irfft(jnp.fft.rfft(x))


@check
def scan_and_sort():
    x = jax.random.normal(jax.random.key(4), (4096,))
    total, sums = jax.lax.scan(lambda carry, item: (carry * 0.5 + item, carry), jnp.float32(0), x[:200])
    return total, sums, jnp.sort(x), jnp.cumsum(x)


@check
def convolution():
    x = jax.random.normal(jax.random.key(5), (4, 16, 32, 32))
    k = jax.random.normal(jax.random.key(6), (8, 16, 3, 3))
    return jax.jit(lambda a, b: jax.lax.conv(a, b, (1, 1), "SAME"))(x, k)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
