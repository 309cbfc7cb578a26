#!/usr/bin/env python3
"""Writes stubs.cpp: a weak function for every name in a list, returning "not supported", and exports.map for the linker.
A function that the library implements replaces its weak stub.

    generate_stubs.py FUNCTIONS OUTPUT_DIRECTORY RESULT [VERSION...]

RESULT is the library's number for "not supported", or the name of a function of the library's that says it. Each VERSION gives a map exports-VERSION.map whose symbols carry that
version, as programs linked against NVIDIA's library ask for; without any, exports.map has no version.
"""
import pathlib
import sys


def main():
    names = pathlib.Path(sys.argv[1]).read_text().split()
    out = pathlib.Path(sys.argv[2])
    result, versions = sys.argv[3], sys.argv[4:]
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"// Generated from {pathlib.Path(sys.argv[1]).name}."]
    if not result.isdigit():
        lines.append(f'extern "C" int {result}();')
        result += "()"
    lines += [f'extern "C" __attribute__((visibility("default"), weak)) int {name}() {{ return {result}; }}'
              for name in names]
    (out / "stubs.cpp").write_text("\n".join(lines) + "\n")
    symbols = "".join(f"  {name};\n" for name in names)
    for version in versions or [""]:
        name = f"exports-{version}.map" if version else "exports.map"
        (out / name).write_text(f"{version} {{ global:\n{symbols} local: *; }};\n")


if __name__ == "__main__":
    main()
