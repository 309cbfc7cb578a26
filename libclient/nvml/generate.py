#!/usr/bin/env python3
"""Writes weak NOT_SUPPORTED stubs for every NVML function in functions.txt, and the linker's version script.

    generate.py functions.txt OUTPUT_DIRECTORY
"""
import pathlib
import sys


def main():
    names = pathlib.Path(sys.argv[1]).read_text().split()
    out = pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    lines = ["// Generated from functions.txt. A function that this library implements replaces its weak stub.",
             '#include "libclient/nvml/nvml.hpp"', ""]
    lines += [f'extern "C" __attribute__((visibility("default"), weak)) nvmlReturn_t {name}() '
              "{ return NVML_ERROR_NOT_SUPPORTED; }" for name in names if name != "nvmlErrorString"]
    (out / "stubs.cpp").write_text("\n".join(lines) + "\n")
    (out / "exports.map").write_text("{ global: nvml*; local: *; };\n")


if __name__ == "__main__":
    main()
