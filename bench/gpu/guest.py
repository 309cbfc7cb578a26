"""What a VM's programs see of the card: two vgpuds on one machine, joined by a folder that stands for the PCI function
(docs/vgpu-stub.md), the host's with the device `cuda`. Beside it the same natively and through one vgpud. Used by
bench/gpu/run."""

import os
import pathlib
import subprocess
import sys

from llama import Engine
from measuring import ROOT, measure
from rows import CALLS, STEPS

HERE = pathlib.Path(__file__).resolve().parent


def measured(harness, options, environment):
    """name -> number, of everything that is compared, in this environment."""
    found = {}
    for command, rounds, names in (([harness.BUILD / "bench" / "measure", "--bulk-mb", "256"], 3, CALLS),
                                   ([sys.executable, HERE / "torch_steps.py"], 1, (*STEPS, ("PyTorch loss", "loss")))):
        try:
            numbers = measure(command, environment, rounds)
        except subprocess.CalledProcessError as error:
            print(f"  {error}", flush=True)  # its rows are left out
            continue
        found |= {what: numbers[name] for what, name in names}
    if options.engine and options.model:
        rates, = Engine(options.engine, options.model).all_rates(environment, rounds=1)
        found |= {f"llama.cpp {what}": value for what, value in rates.items()}
    return found


def compare(harness, options, table):
    sys.path.insert(0, str(ROOT / "tests" / "stub"))
    from link import Link
    native = measured(harness, options, dict(os.environ))
    with harness.Service() as service:
        service.wait_for_workers()
        local = measured(harness, options, service.environment())
    with Link(size="4GiB", slots=4) as link:
        guest = measured(harness, options, link.guest.environment())
        subprocess.run([harness.BUILD / "bench" / "measure", "--only", "calls"], env=link.guest.environment(), check=True,
                       stdout=subprocess.DEVNULL)
        harness.wait_until(lambda: not link.guest.clients(), 10, "the client has gone")
        last = max(link.guest.stats("--ended")["ended"], key=lambda row: row["session"])
        verdict = link.guest.cli("verify", "--", harness.PROGRAMS / "scan", check=False)
    for what, value in native.items():
        table.add(f"in a guest: {what}", value, guest.get(what))
        if what in guest and what in local:
            table.say(f"    through one vgpud {local[what]:.2f}, guest over that {guest[what] / local[what]:.2f}")
    table.say(f"in a guest: `measure --only calls` sent {last['link_records']} records by {last['link_doorbells']} doorbells; "
              f"verify: {'VERIFIED' if verdict.returncode == 0 else verdict.stdout.strip().splitlines()[-1:]}")
