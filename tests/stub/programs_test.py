#!/usr/bin/env python3
"""Programs of tests/programs as a guest's: through the guest's vgpud, the link and the host's vgpud to the software
GPU. One link serves a group of programs, one after the other, as a guest would.

    programs_test.py GROUP     memory, work, kernels or ends: the programs that show most of the link, part of ./test.sh
    programs_test.py all       every program, static and shared; some minutes
    programs_test.py PROGRAM[:ARGUMENT...] ...
"""

import sys
import time

from link import Link, harness

# 1 GiB a process: as much pinned memory as `copies` asks for.
SIZE, SLOTS = "4GiB", 4

GROUPS = {
    "memory": "async_copies copies:16 copy_2d copy_threads managed pinned_copies pinned_mapped malloc_async wait_value "
              "big_struct managed_shared",
    "work": "graphs graph_nodes host_callback launch_ex stream_order streams_events small_uploads sync_forms threads16 hot_queries "
            "per_thread_stream grid_sync",
    "kernels": "matmul_tiled reduce symbols textures link_jit warp_ops vector_add_shared",
    "ends": "driver_api fork_after_use illegal_address images trap:trap exit_no_cleanup:_exit "
            "busy:--seconds:0.5 device_printf",
}
# The others; each program of either list, static and shared, is what `all` runs.
REST = ("reset_variables vmm vmm_share pool_share ipc ipc:orphan mem_info atomics launches occupancy double_precision dynamic_shared half2_math histogram integer_ops libm "
        "mandelbrot nbody recursion scan transpose vector_add surfaces hopper device_probe trap:assert "
        "exit_no_cleanup:return")


def words(argument):
    if argument in GROUPS:
        return GROUPS[argument].split()
    if argument != "all":
        return [argument]
    once = dict.fromkeys(word for group in (*GROUPS.values(), REST) for word in group.split()
                         if not word.endswith("_shared") or word == "dynamic_shared")
    shared = [":".join([f"{name}_shared", *rest]) for name, *rest in (word.split(":") for word in once)]
    return [*once, *shared]


def main():
    if len(sys.argv) < 2:
        return __doc__
    harness.become_subreaper()
    failed = []
    with Link(size=SIZE, slots=SLOTS) as link:
        for word in (word for argument in sys.argv[1:] for word in words(argument)):
            program, *arguments = word.split(":")
            start = time.monotonic()
            result = link.guest.run(program, *arguments, timeout=120)
            print(f"{word}: {'ok' if result.returncode == 0 else f'ended with {result.returncode}'} "
                  f"{time.monotonic() - start:.1f} s", flush=True)
            if result.returncode != 0:
                failed.append(word)
                print(result.stdout[-1500:], result.stderr[-1500:], sep="\n")
        harness.wait_until(lambda: not link.guest.clients(), 5, "the clients are gone from the guest's statistics")
        if failed:
            print(link.guest.log_text(), link.host.log_text(), sep="\n")
            print("failed:", *failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
