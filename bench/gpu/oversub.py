"""Memory oversubscription on a GPU: how long 16 GiB take out and in again, and whether clients that together hold more
than the card's memory compute what they would alone. Used by bench/gpu/run."""

import mmap
import re
import subprocess
import time

GIB = 1 << 30
MOVED = 16  # GiB, the goal's size


def card_bytes():
    text = subprocess.run(["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"], check=True,
                          text=True, stdout=subprocess.PIPE).stdout
    return int(text.split()[0]) << 20


def host_bytes():
    """What the machine, or this container of it, has to give."""
    with open("/proc/meminfo", encoding="ascii") as info:
        free = int(re.search(r"^MemAvailable:\s+(\d+)", info.read(), re.MULTILINE).group(1)) << 10
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit, \
             open("/sys/fs/cgroup/memory.current", encoding="ascii") as used:
            free = min(free, int(limit.read()) - int(used.read()))
    except (OSError, ValueError):
        pass  # no limit
    return free


class Held:
    """Memory of this process that was touched in whole huge pages, until the end of the context."""

    def __init__(self, gib):
        self.memory = mmap.mmap(-1, gib * GIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, len(self.memory), 2 << 20):
            self.memory[at] = 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.memory.close()


def service(harness, host_limit, stay, reserve=0):
    return harness.Service(prestart=0, device="oversubscribe: {host_limit: %dGiB, minimum_residence: %s, "
                                              "idle_after: 300ms, reserve: %s}"
                                              % (host_limit // GIB, stay, f"{reserve}GiB" if reserve else "none"))


def row_of(running, process):
    return {row["pid"]: row for row in running.clients()}[process.pid]


def measure_moves(harness, table, running, turns):
    """A client that works now and then has to leave for one that needs nearly the whole card, once for each of
    `turns`: the first time into fresh host memory, later into what it kept."""
    large = (card_bytes() // GIB - MOVED // 2) * 1024
    small = running.popen("oversub", "--megabytes", MOVED * 1024, "--seconds", 60, "--pause-ms", 6000)
    harness.first_line(small)
    for count, turn in enumerate(turns, 1):
        other = running.run("oversub", "--megabytes", large, "--seconds", 0)
        if other.returncode != 0:
            raise AssertionError(other.stderr)
        harness.wait_until(lambda moves=count: row_of(running, small)["moves_in"] >= moves, 20, "it is back")
        row = row_of(running, small)
        out, back = row["last_move_out_ns"] / 1e9, row["last_move_in_ns"] / 1e9
        held = row["bytes_moved_out"] / row["moves_out"] / 1e9
        table.add(f"{MOVED} GiB out and in, {turn}, s (goal 1.5)", None, out + back)
        table.say(f"    out {out:.2f} s ({held / out:.1f} GB/s), in {back:.2f} s ({held / back:.1f} GB/s)")
        time.sleep(2)
    small.kill()
    small.communicate()


def filled(running):
    """What vgpud says of the memory that it keeps ready, once it has taken all that it could; None before."""
    state = running.stats()["broker"]["reserve"]
    return None if state["busy"] else state


def out_and_in(harness, table):
    """Without a reserve first: in a virtual machine the first touch of memory is slow, and it is the run with the
    reserve that can be given memory that nothing has touched, by holding as much as the other has left. The rate at
    which the reserve was taken says whether that was so: where it is that of memory that is there already (tens of
    GB/s), the first rows of both are alike. Then nothing is done for 20 s, since a hypervisor may take back what is
    free, but not what is held."""
    with service(harness, 2 * card_bytes(), "60s") as running:
        measure_moves(harness, table, running, ("first time, no reserve", "second time", "third time"))
    wanted = MOVED + MOVED // 8
    if host_bytes() < (MOVED + 2 + wanted + 16) * GIB:
        table.say(f"    the first time with a reserve: not run, the host has {host_bytes() // GIB} GiB free")
        return
    with Held(MOVED + 2), service(harness, 2 * card_bytes(), "60s", wanted) as running:
        state = harness.wait_until(lambda: filled(running), 120, "host memory is kept ready")
        amount, seconds = state["held"] / 1e9, state["first_ns"] / 1e9
        table.say(f"    {amount:.1f} GB of {state['wanted'] / 1e9:.1f} kept ready, taken in {seconds:.2f} s "
                  f"({amount / seconds:.1f} GB/s)")
        time.sleep(20)
        measure_moves(harness, table, running, ("first time, from the reserve",))


def several(harness, table):
    """Clients that each need more than a third of the card, two at a time more than all of it."""
    card, host = card_bytes(), host_bytes()
    count, each = (3, 40) if card < 110 * GIB else (2, card * 55 // 100 // GIB)
    room = (count - 1) * each + 2
    if host < (room + 8) * GIB:
        each = (host // GIB - 10) // (count - 1)
        room = (count - 1) * each + 2
        table.say(f"oversubscription: the host has {host // GIB} GiB free, so {each} GiB a client")
    began = time.monotonic()
    with service(harness, room * GIB, "2s") as running:
        clients = [running.popen("oversub", "--megabytes", each * 1024, "--seconds", 18,
                                 stderr=subprocess.STDOUT) for _ in range(count)]
        outputs = [client.communicate(timeout=120)[0] for client in clients]
        ended = running.stats("--ended")["ended"]
    right = sum(client.returncode == 0 for client in clients)
    table.say(f"{right} of {count} clients of {each} GiB each on a card of {card / GIB:.1f} GiB have the right results "
              f"after {time.monotonic() - began:.0f} s")
    for client, output in zip(clients, outputs):
        if client.returncode != 0:
            table.say("    " + (output.strip().splitlines() or [f"ended with {client.returncode}"])[-1])
    moved = sum(row["bytes_moved_out"] + row["bytes_moved_in"] for row in ended)
    took = sum(row["move_out_ns"] + row["move_in_ns"] for row in ended) / 1e9
    table.say(f"    {sum(row['moves_out'] for row in ended)} moves out, {sum(row['moves_in'] for row in ended)} in, "
              f"{moved / 1e9:.0f} GB at {moved / 1e9 / max(took, 1e-9):.1f} GB/s each way, several at once; kernels "
              f"{sum(row['kernel_ns'] for row in ended) / 1e9:.1f} s")
    if right != count:
        raise AssertionError("an oversubscribed client's results are wrong")
