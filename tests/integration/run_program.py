#!/usr/bin/env python3
"""Runs one test program on the software GPU alone (`softgpu`) or through a private vgpud (`vgpud`), and passes if the
program does, without anything left behind.

    run_program.py softgpu|vgpud PROGRAM [ARGUMENT...]
"""

import os
import subprocess
import sys

import harness

QUOTA_MB = 256


def on_software_gpu(program, arguments):
    environment = {**os.environ, "LD_LIBRARY_PATH": harness.library_path([harness.SOFTWARE_GPU, harness.CUBLAS])}
    return subprocess.run([str(harness.PROGRAMS / program), *arguments], env=environment, check=False).returncode


def through_vgpud(program, arguments):
    quota = program.startswith("out_of_quota") or "quota" in arguments
    classes = {"default": {"memory_quota": f"{QUOTA_MB}MiB"} if quota else {}}
    with harness.Service(classes=classes, prestart=1) as service:
        more = {"VGPU_TEST_QUOTA_MB": str(QUOTA_MB)} if quota else {}
        process = service.popen(program, *arguments, env=service.environment(**more), stdout=None)
        status = process.wait()
        harness.wait_until(lambda: not service.clients(), 2, "the client is gone from the statistics")
        if status != 0:
            print(service.log_text(), file=sys.stderr)
    return status


def main():
    mode, program, *arguments = sys.argv[1:]
    harness.become_subreaper()
    status = on_software_gpu(program, arguments) if mode == "softgpu" else through_vgpud(program, arguments)
    left = [pid for pid in harness.descendants(os.getpid()) if not harness.is_zombie(pid)]
    if left:
        print(f"processes left behind: {left}", file=sys.stderr)
        return 1
    if status != 0:
        print(f"{program} ended with {status}", file=sys.stderr)
    return 0 if status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
