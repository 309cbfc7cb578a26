"""PyTorch on the GPU, deterministic from seeds: training, inference, graphs, allocators, libraries."""

import os
import sys

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import torch.nn.functional as F
from torch import nn

from checking import check, run

torch.backends.cudnn.benchmark = False
torch.backends.cudnn.deterministic = True
GPU = torch.device("cuda")


def seeded(seed=7):
    torch.manual_seed(seed)
    return torch.Generator(device="cpu").manual_seed(seed)


def transformer(width=256, layers=2):
    seeded()
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.1, batch_first=True)
    return nn.TransformerEncoder(layer, layers).to(GPU)


def train(model, batch, steps=5, autocast=False):
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
            loss = model(batch).float().square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return torch.stack(losses), [p.detach().sum() for p in model.parameters()]


@check
def transformer_training():
    model = transformer()
    return train(model, torch.randn(8, 64, 256, generator=seeded(1)).to(GPU))


@check
def transformer_training_bf16():
    model = transformer()
    return train(model, torch.randn(8, 64, 256, generator=seeded(1)).to(GPU), autocast=True)


@check
def convolution_training():
    seeded()
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(64, 10)).to(GPU)
    return train(model, torch.randn(16, 3, 64, 64, generator=seeded(2)).to(GPU))


@check
def inference():
    model = transformer().eval()
    batch = torch.randn(1, 32, 256, generator=seeded(3)).to(GPU)
    with torch.inference_mode():
        return [model(batch) for _ in range(20)][-1]


@check
def cuda_graph_replay():
    model = transformer().eval()
    batch = torch.randn(1, 32, 256, generator=seeded(3)).to(GPU)
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                model(batch)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(batch)
        results = []
        for seed in range(5):
            batch.copy_(torch.randn(1, 32, 256, generator=seeded(seed)))
            graph.replay()
            results.append(out.clone())
    return results


@check
def graph_of_a_training_step():
    seeded()
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10)).to(GPU)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    data = torch.randn(64, 128, generator=seeded(4)).to(GPU)
    goal = torch.randint(0, 10, (64,), generator=seeded(5)).to(GPU)

    def step():
        optimiser.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(data), goal)
        loss.backward()
        optimiser.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    for _ in range(50):
        graph.replay()
    return loss.clone(), [p.detach().clone() for p in model.parameters()]


@check
def compiled():
    seeded()
    model = nn.Sequential(nn.Linear(128, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 64)).to(GPU)
    fast = torch.compile(model)
    data = torch.randn(32, 128, generator=seeded(6)).to(GPU)
    with torch.inference_mode():
        return fast(data), fast(data * 2)


@check
def compiled_with_graphs():
    seeded()
    model = nn.Sequential(nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 64)).to(GPU)
    fast = torch.compile(model, mode="reduce-overhead")
    data = torch.randn(32, 128, generator=seeded(6)).to(GPU)
    with torch.inference_mode():
        for _ in range(4):
            out = fast(data).clone()
    return out


@check
def attention_kernels():
    q, k, v = (torch.randn(2, 8, 128, 64, generator=seeded(i)).to(GPU, torch.bfloat16).requires_grad_() for i in range(3))
    results = []
    for backend in (torch.nn.attention.SDPBackend.FLASH_ATTENTION, torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION,
                    torch.nn.attention.SDPBackend.CUDNN_ATTENTION, torch.nn.attention.SDPBackend.MATH):
        with torch.nn.attention.sdpa_kernel(backend):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        results.append(out)
    results[0].float().sum().backward()
    return results


@check
def pinned_loader_with_workers():
    data = torch.utils.data.TensorDataset(torch.arange(4096, dtype=torch.float32).reshape(512, 8))
    loader = torch.utils.data.DataLoader(data, batch_size=32, num_workers=2, pin_memory=True)
    total = torch.zeros(8, device=GPU)
    for (batch,) in loader:
        total += batch.to(GPU, non_blocking=True).sum(0)
    return total


@check
def linear_algebra():
    matrix = torch.randn(96, 96, generator=seeded(8), dtype=torch.float64).to(GPU)
    spd = matrix @ matrix.T + 96 * torch.eye(96, device=GPU, dtype=torch.float64)
    return (torch.linalg.cholesky(spd), torch.linalg.eigvalsh(spd), torch.linalg.svdvals(matrix),
            torch.linalg.solve(spd, matrix), torch.linalg.qr(matrix)[1].abs(), torch.linalg.inv(spd))


@check
def fourier():
    signal = torch.randn(4, 1024, generator=seeded(9)).to(GPU)
    plane = torch.randn(64, 96, generator=seeded(10)).to(GPU)
    return torch.view_as_real(torch.fft.rfft(signal)), torch.view_as_real(torch.fft.fft2(plane)), torch.fft.irfft(torch.fft.rfft(signal))


@check
def random_numbers():
    torch.cuda.manual_seed_all(11)
    weights = torch.rand(8, 100, device=GPU)
    return torch.randn(1000, device=GPU), torch.multinomial(weights, 16), torch.bernoulli(weights), torch.randperm(5000, device=GPU)


@check
def sparse():
    # Whole numbers: cuSPARSE adds in no fixed order, natively too.
    dense = torch.randint(-4, 5, (64, 64), generator=seeded(12)).float().relu().to(GPU)
    return torch.sparse.mm(dense.to_sparse_csr(), dense), torch.sparse.mm(dense.to_sparse_coo(), dense)


@check
def sorting_and_indexing():
    values = torch.randn(100_000, generator=seeded(13)).to(GPU)
    mask = values > 0
    return (values.sort()[0], values.topk(50)[0], values.cumsum(0), values[mask].sum(), torch.unique((values * 4).round()),
            values.double().kthvalue(500)[0], torch.bincount((values.abs() * 10).long()))


@check
def half_and_fp8_products():
    a = torch.randn(256, 256, generator=seeded(14)).to(GPU)
    b = torch.randn(256, 256, generator=seeded(15)).to(GPU)
    results = [a @ b, a.half() @ b.half(), a.bfloat16() @ b.bfloat16(), a.double() @ b.double()]
    one = torch.ones((), device=GPU)
    results.append(torch._scaled_mm(a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t().contiguous().t(), scale_a=one,
                                    scale_b=one, out_dtype=torch.bfloat16))
    return results


@check
def recurrent():
    seeded()
    model = nn.LSTM(64, 128, num_layers=2, batch_first=True).to(GPU)
    out, (hidden, cell) = model(torch.randn(4, 32, 64, generator=seeded(16)).to(GPU))
    out.sum().backward()
    return out, hidden, cell


@check
def streams_and_events():
    a = torch.randn(512, 512, generator=seeded(17)).to(GPU)
    streams = [torch.cuda.Stream() for _ in range(4)]
    outs = []
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for index, stream in enumerate(streams):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outs.append(a @ (a + index))
    for stream in streams:
        torch.cuda.current_stream().wait_stream(stream)
    end.record()
    end.synchronize()
    assert start.elapsed_time(end) > 0
    return outs


@check
def out_of_memory_is_an_exception():
    free, _ = torch.cuda.mem_get_info()
    try:
        torch.empty(int(free * 2), dtype=torch.uint8, device=GPU)
    except torch.OutOfMemoryError:
        return torch.ones(4, device=GPU) * 2
    raise AssertionError("twice the free memory could be allocated")


@check
def many_allocations():
    held = []
    for index in range(400):
        held.append(torch.full((1 + (index * 7919) % 50_000,), index, device=GPU, dtype=torch.int32))
        if index % 3 == 0:
            held.pop(len(held) // 2)
    torch.cuda.empty_cache()
    return [tensor.sum() for tensor in held]


@check
def profiler():
    """The profiler must work or refuse; the work in it must come out right either way."""
    data = torch.randn(128, 128, generator=seeded(18)).to(GPU)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        out = data @ data
        torch.cuda.synchronize()
    assert len(profile.key_averages()) > 0
    return out


@check
def device_questions():
    properties = torch.cuda.get_device_properties(0)
    torch.cuda.current_device(), torch.cuda.memory_allocated(), torch.cuda.get_device_capability()
    return torch.tensor([properties.major, properties.minor, properties.multi_processor_count, properties.warp_size])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
