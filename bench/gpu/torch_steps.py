"""Times of PyTorch work, printed as `name value` lines: a transformer's training step, batch-1 eager inference of a small
model, the same as a CUDA graph's replay. Run natively and through vgpud by bench/gpu/run; seeds are fixed, so the printed
`loss` must be the same both ways.

    torch_steps.py [--steps N]      --steps: stop after N training steps (for counting waited-for calls a step)
"""

import statistics
import sys
import time

import torch
from torch import nn

GPU = torch.device("cuda")


def timed(function, rounds, warm=10):
    """Median milliseconds of a call, waited for."""
    for _ in range(warm):
        function()
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def training():
    """A step of a transformer of 12.6 million parameters, batch 8 x 128 tokens; returns the step function."""
    torch.manual_seed(1)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.0, batch_first=True), 4).to(GPU)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batch = torch.randn(8, 128, 512, generator=torch.Generator().manual_seed(2)).to(GPU)

    def step():
        optimiser.zero_grad(set_to_none=True)
        loss = model(batch).square().mean()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def inference():
    """Eager batch-1 inference of a small model, and the same captured: two functions."""
    torch.manual_seed(3)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(128, 4, 256, batch_first=True), 2).to(GPU).eval()
    batch = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(4)).to(GPU)

    def eager():
        with torch.inference_mode():
            return model(batch)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            eager()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        eager()
    return eager, graph.replay


def main():
    if "--steps" in sys.argv:
        step = training()
        for _ in range(int(sys.argv[sys.argv.index("--steps") + 1])):
            step()
        torch.cuda.synchronize()
        return
    step = training()
    print("training_step_ms", timed(step, 60))
    print("loss", float(step()))
    eager, replay = inference()
    print("eager_inference_ms", timed(eager, 300))
    print("graph_replay_ms", timed(replay, 300))


if __name__ == "__main__":
    main()
