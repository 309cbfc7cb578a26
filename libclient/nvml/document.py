#!/usr/bin/env python3
"""Writes the page about libnvidia-ml.so.1: what is answered and what is not.

    document.py FUNCTIONS ANSWERS OUT SOURCE...

Fails when ANSWERS and the functions that the sources define are not the same.
"""
import pathlib
import re
import sys

HEAD = """# libnvidia-ml.so.1: what is answered

Made by `cmake --build build/release --target nvml-page` from `libclient/nvml/`. NVML is answered from the client's point of view:
its devices, its quota as the card's memory, the processes that it may see. The library asks vgpud and opens no session, so
looking costs nobody anything. The list holds the devices that `libcuda` has in this process or would get, with the same UUIDs. Where
`CUDA_VISIBLE_DEVICES` asks for them by index, all devices of the client's pool up to the last of them are listed, so that an index means the same
here and there, as for programs that count devices by NVML and the variable (PyTorch does). A variable that hides all devices from CUDA hides
none here, as natively. Every other function of NVML 13 is exported and answers `NVML_ERROR_NOT_SUPPORTED` (before `nvmlInit` `NVML_ERROR_UNINITIALIZED`), which tools such as
nvitop and `nvidia-smi` show as N/A: temperatures, fans, power, current clocks, ECC counters, NVLink, and all that would change the device.

| function | answer |
|---|---|
"""


def main():
    names, answers, out, *sources = sys.argv[1:]
    lines = [l for l in pathlib.Path(answers).read_text().splitlines() if l and not l.startswith("#")]
    table = dict(l.split("\t") for l in lines)
    defined = set()
    for source in sources:
        text = pathlib.Path(source).read_text()
        defined |= set(re.findall(r"NVML_EXPORT (?:nvmlReturn_t|const char\*) (nvml\w+)\(", text))
    if defined != set(table):
        raise SystemExit(f"{answers} and the sources differ: {sorted(defined ^ set(table))}")
    unknown = defined - set(pathlib.Path(names).read_text().split())
    if unknown:
        raise SystemExit(f"not exported: {sorted(unknown)}")
    text = HEAD + "".join(f"| {name} | {table[name]} |\n" for name in sorted(table))
    pathlib.Path(out).write_text(text)


if __name__ == "__main__":
    main()
