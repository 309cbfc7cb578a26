"""Two vgpuds on one machine, joined by a folder that stands for the PCI function (docs/vgpu-stub.md): the guest's, whose
device is `stub`, and the host's, whose device is the software GPU, or `cuda` with VGPU_TEST_DEVICE=cuda.
"""

import json
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
import harness  # noqa: E402


def memory_folder(size):
    """Where a BAR2 of this size ("64MiB") fits: in memory, or else, where that is small, in the folder of temporary files."""
    memory = pathlib.Path("/dev/shm")
    wanted = int(size[:-3]) << {"MiB": 20, "GiB": 30}[size[-3:]]
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > wanted else None


class Guest(harness.Service):
    """The guest's vgpud; its device is the function under `tree`."""

    def __init__(self, tree, prestart=1, classes=None, kind="stub"):
        super().__init__(classes=classes, prestart=prestart, extra=f"sysfs_root: {tree}\n")
        self.kind = kind
        self.write_config(classes)

    def write_config(self, classes=None, rules=None):
        super().write_config(classes, rules)
        if hasattr(self, "kind"):
            text = self.config.read_text().replace(f"kind: {harness.DEVICE_KIND}", f"kind: {self.kind}", 1)
            self.config.write_text(text)

    def row(self):
        """The device as `vgpud-cli devices` shows it."""
        return json.loads(self.cli("devices", "--json").stdout)[0]

    def wait_for_device(self, timeout=20):
        harness.wait_until(lambda: self.row()["problem"] == "" and self.row().get("workers_ready", 0) > 0,
                           timeout, "the guest's device serves")


class Host(harness.Service):
    """The host's vgpud, which serves one VM or several: {name: {key: value}} besides pci_tree."""

    def __init__(self, tree, vms=None, classes=None, prestart=1):
        lines = ["vms:"]
        for name, values in (vms or {"vm1": {}}).items():
            values = {"size": "64MiB", "slots": 4, "pci_tree": tree if len(vms or [1]) == 1 else tree / name, **values}
            lines.append(f"  - {{name: {name}, {', '.join(f'{key}: {value}' for key, value in values.items())}}}")
        super().__init__(classes=classes, prestart=prestart, extra="\n".join(lines) + "\n")

    def vms(self):
        return {vm["name"]: vm for vm in json.loads(self.cli("vm", "list", "--json").stdout)}


class Link:
    """Both, started and joined; use it as a context manager. `size` and `slots` are the VM's."""

    def __init__(self, size="64MiB", slots=4, guest_classes=None, host_classes=None, prestart=1, **vm):
        self.tree = pathlib.Path(tempfile.mkdtemp(prefix="vgpud-pci-", dir=memory_folder(size)))
        self.host = Host(self.tree, {"vm1": {"size": size, "slots": slots, **vm}}, host_classes, prestart)
        self.guest = Guest(self.tree, prestart, guest_classes)

    def __enter__(self):
        try:
            self.host.__enter__()
            self.guest.__enter__()
            self.guest.wait_for_device()
            return self
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(self, kind, value, trace):
        try:
            for service in (self.guest, self.host):
                if service.process is not None and service.process.poll() is None:
                    service.__exit__(kind, value, trace)
                else:
                    service._clean_up()
        finally:
            shutil.rmtree(self.tree, ignore_errors=True)
