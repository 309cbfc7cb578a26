"""What bench/gpu/run's tables call the numbers of bench/measure.cu and of torch_steps.py: (row, name)."""

CALLS = (("issue a launch, us", "launch_issue_us"), ("issue a launch, median call, us", "launch_issue_median_us"),
         ("issue a 64-byte copy, us", "copy64_issue_us"), ("issue a 64-byte copy, median call, us", "copy64_issue_median_us"),
         ("launch + synchronize p50, us", "launch_sync_p50_us"), ("launch + synchronize p99, us", "launch_sync_p99_us"),
         ("20,000 launches, us each", "launch_throughput_us"),
         ("waited-for copy, spinning p50, us", "waited_call_spinning_p50_us"),
         ("waited-for copy, sleeping p50, us", "waited_call_sleeping_p50_us"),
         ("pinned to device, GB/s", "pinned_to_device_gbs"), ("device to pinned, GB/s", "device_to_pinned_gbs"),
         ("pageable to device, GB/s", "pageable_to_device_gbs"), ("device to pageable, GB/s", "device_to_pageable_gbs"),
         ("integer kernel, us", "kernel_churn_us"), ("matrix product kernel, us", "kernel_product_us"))
STEPS = (("PyTorch training step, ms", "training_step_ms"), ("PyTorch eager inference, ms", "eager_inference_ms"),
         ("PyTorch graph replay, ms", "graph_replay_ms"))
