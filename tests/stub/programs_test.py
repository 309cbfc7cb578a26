#!/usr/bin/env python3
"""Every program of tests/programs as a guest's: through the guest's vgpud, the link and the host's vgpud to the software
GPU. One link serves a group of programs, one after the other, as a guest would.

    programs_test.py PROGRAM[:ARGUMENT...] ...
"""

import sys

from link import Link, harness

# 1 GiB a process: as much pinned memory as `copies` asks for.
SIZE, SLOTS = "4GiB", 4


def main():
    harness.become_subreaper()
    failed = []
    with Link(size=SIZE, slots=SLOTS) as link:
        for word in sys.argv[1:]:
            program, *arguments = word.split(":")
            result = link.guest.run(program, *arguments, timeout=120)
            print(f"{word}: {'ok' if result.returncode == 0 else f'ended with {result.returncode}'}", flush=True)
            if result.returncode != 0:
                failed.append(word)
                print(result.stdout[-1500:], result.stderr[-1500:], sep="\n")
        harness.wait_until(lambda: not link.guest.clients(), 5, "the clients are gone from the guest's statistics")
        if failed:
            print(link.guest.log_text(), link.host.log_text(), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
