#!/usr/bin/env python3
"""Turns symbols.tsv into a library's exports.

Writes three files into the folder given as the second argument:
  stubs.cpp         a weak definition of every exported symbol that answers CUDA_ERROR_NOT_SUPPORTED and is counted
  symbol_table.cpp  the table that cuGetProcAddress searches
  exports.map       the linker version script: these symbols and nothing else
"""
import pathlib
import sys

HEAD = "// Generated from cudaabi/symbols.tsv by cudaabi/generate.py. Do not edit.\n"
THREAD = {"plain": "DefaultStream::legacy", "ptsz": "DefaultStream::per_thread", "ptds": "DefaultStream::per_thread"}


def read_rows(path):
    for line in pathlib.Path(path).read_text().splitlines():
        if line and not line.startswith("#"):
            name, version, symbol, thread = line.split("\t")
            yield name, int(version), symbol, thread


def main(source, target):
    rows = list(read_rows(source))
    symbols = sorted({row[2] for row in rows})
    out = pathlib.Path(target)
    out.mkdir(parents=True, exist_ok=True)

    stubs = [HEAD, '#include "cudaabi/unsupported.hpp"\n']
    for index, symbol in enumerate(symbols):
        stubs.append(
            f'extern "C" __attribute__((weak, visibility("default"))) int {symbol}();\n'
            f"int {symbol}() {{ return cudaabi::note_unsupported({index}); }}\n"
        )
    (out / "stubs.cpp").write_text("".join(stubs))

    table = [HEAD, '#include "cudaabi/symbol_table.hpp"\n\nextern "C" {\n']
    table += [f"int {symbol}();\n" for symbol in symbols]
    table.append("}\n\nnamespace cudaabi {\nnamespace {\n")
    table.append("constexpr const char* names[] = {\n" + "".join(f'    "{s}",\n' for s in symbols) + "};\n")
    table.append("const Symbol symbols[] = {\n")
    for name, version, symbol, thread in rows:
        table.append(
            f'    {{"{name}", {version}, "{symbol}", {THREAD[thread]}, reinterpret_cast<void*>(&{symbol})}},\n'
        )
    table.append("};\n}  // namespace\n\n")
    table.append("std::span<const Symbol> symbol_table() { return symbols; }\n")
    table.append("std::span<const char* const> symbol_names() { return names; }\n")
    table.append("}  // namespace cudaabi\n")
    (out / "symbol_table.cpp").write_text("".join(table))

    exports = "{\n  global:\n" + "".join(f"    {s};\n" for s in symbols) + "  local: *;\n};\n"
    (out / "exports.map").write_text(exports)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
