"""Triton kernels: a plain one, a matrix product, one with 30 arguments, an autotuned one."""

import sys

import torch
import triton
import triton.language as tl

from checking import check, run


@triton.jit
def add_kernel(a, b, out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(out + offsets, tl.load(a + offsets, mask) + tl.load(b + offsets, mask), mask)


@triton.jit
def thirty(out, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, a19, a20, a21, a22,
           a23, a24, a25, a26, a27, n):
    total = (a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11 + a12 + a13 + a14 + a15 + a16 + a17 + a18 + a19
             + a20 + a21 + a22 + a23 + a24 + a25 + a26 + a27)
    at = tl.program_id(0)
    tl.store(out + at, total * 1.0 + at, at < n)


@triton.jit
def product_kernel(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    total = tl.zeros((BM, BN), tl.float32)
    for step in range(0, k, BK):
        left = tl.load(a + rows[:, None] * k + (step + inner)[None, :])
        right = tl.load(b + (step + inner)[:, None] * n + columns[None, :])
        total = tl.dot(left, right, total)
    tl.store(c + rows[:, None] * n + columns[None, :], total)


@triton.autotune(configs=[triton.Config({"BLOCK": size}) for size in (256, 1024)], key=["n"])
@triton.jit
def scale_kernel(x, out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(out + offsets, tl.load(x + offsets, mask) * 3, mask)


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).cuda()


@check
def addition():
    a, b = seeded(100_000), seeded(100_000) * 2
    out = torch.empty_like(a)
    add_kernel[(triton.cdiv(a.numel(), 1024),)](a, b, out, a.numel(), BLOCK=1024)
    return out


@check
def thirty_arguments():
    out = torch.empty(16, device="cuda")
    thirty[(16,)](out, *range(1, 28), 28, 16)
    return out


@check
def matrix_product():
    a, b = seeded(256, 256).half(), seeded(256, 256).half()
    c = torch.empty(256, 256, device="cuda")
    product_kernel[(4, 4)](a, b, c, 256, 256, 256, BM=64, BN=64, BK=32)
    assert torch.allclose(c, a.float() @ b.float(), atol=0.5, rtol=1e-2)
    return c


@check
def autotuned():
    x = seeded(50_000)
    out = torch.empty_like(x)
    scale_kernel[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, out, x.numel())
    return out


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
