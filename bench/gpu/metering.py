"""How exactly vgpud meters: the device time that `vgpud-cli stats` charges a PyTorch program for some steps, beside what
NVIDIA's profiler interface (CUPTI, through torch.profiler) counts for the same steps natively. Used by bench/gpu/run.

    metering.py WORK STEPS [--profile]      the program itself; WORK: training, inference or products
"""

import subprocess
import sys

WORKS = (("training", 100), ("inference", 400), ("products", 60))


def products():
    """A step of ten matrix products of 4096: kernels of some 200 us each, one behind the other."""
    import torch
    first = torch.randn(4096, 4096, device="cuda")
    second = torch.randn(4096, 4096, device="cuda")

    def step():
        result = first
        for _ in range(10):
            result = torch.mm(result, second)
        return result

    return step


def run(work, steps, profiled):
    """Warms up, says `ready`, waits for a line, takes the steps, says the profiler's microseconds (0: not profiled), waits."""
    import torch
    import torch_steps
    step = {"training": torch_steps.training, "inference": lambda: torch_steps.inference()[0], "products": products}[work]()
    for _ in range(20):
        step()
    torch.cuda.synchronize()

    def take():
        for _ in range(steps):
            step()
        torch.cuda.synchronize()

    if profiled:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]):
            take()  # the interface's own start
    print("ready", flush=True)
    sys.stdin.readline()
    if not profiled:
        take()
        print(0, flush=True)
    else:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            take()
        print(sum(event.self_device_time_total for event in profile.key_averages()), flush=True)
    sys.stdin.readline()


def profiled_us(work, steps):
    process = subprocess.Popen([sys.executable, __file__, work, str(steps), "--profile"], text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    output, _ = process.communicate("\n\n", timeout=120)
    return float(output.split()[1])


def metered_us(harness, service, work, steps):
    def used():
        row, = service.clients()
        return row["device_ns"] / 1e3

    process = subprocess.Popen([sys.executable, __file__, work, str(steps)], text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, env=service.environment())
    harness.first_line(process, 120)
    before = used()
    process.stdin.write("\n")
    process.stdin.flush()
    harness.first_line(process, 120)
    after = used()
    process.communicate("\n", timeout=60)
    return after - before


def compare(harness, table):
    with harness.Service() as service:
        for work, steps in WORKS:
            service.wait_for_workers()
            table.add(f"device time of {steps} steps ({work}), ms: profiler, metered", profiled_us(work, steps) / 1e3,
                      metered_us(harness, service, work, steps) / 1e3)
            harness.wait_until(lambda: not service.clients(), 10, "the client has gone")


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), "--profile" in sys.argv)
