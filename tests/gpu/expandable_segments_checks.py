"""PyTorch with expandable segments: its allocator then lives on the driver's virtual memory calls."""

import os
import sys

os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"

import torch_checks  # noqa: E402

if __name__ == "__main__":
    sys.exit(torch_checks.run(sys.argv[1:] or ["transformer_training", "cuda_graph_replay", "many_allocations",
                                               "out_of_memory_is_an_exception"]))
