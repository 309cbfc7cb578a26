"""NCCL inside one process: a communicator of one rank, by PyTorch's process group."""

import os
import sys

import torch
import torch.distributed as distributed

from checking import check, run


@check
def one_rank():
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    distributed.init_process_group("nccl", rank=0, world_size=1)
    data = torch.arange(1000, dtype=torch.float32, device="cuda")
    distributed.all_reduce(data)
    gathered = [torch.empty_like(data)]
    distributed.all_gather(gathered, data)
    distributed.broadcast(data, 0)
    distributed.barrier()
    torch.cuda.synchronize()
    distributed.destroy_process_group()
    return data, gathered


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
