#!/usr/bin/env python3
"""Turns the call table into code and documentation.

generate.py code CALLS.TSV OUTDIR SYMBOLS.TSV HASHED_FILE...   writes vgpu/{call_ids.hpp,records.hpp,call_table.cpp,
    client_stubs.cpp,driver_table.hpp,driver_table.cpp,worker_dispatch.inc,worker_handlers.inc,arena_spans.inc}
    below OUTDIR
generate.py docs CALLS.TSV SYMBOLS.TSV APPENDIX OUT   writes the compatibility page
"""
import hashlib
import pathlib
import re
import sys

HEAD = "// Generated from protocol/calls.tsv by protocol/generate.py. Do not edit.\n"

HANDLES = {
    "CUstream": "stream", "CUevent": "event", "CUmodule": "module", "CUfunction": "function", "CUlibrary": "library",
    "CUkernel": "kernel", "CUgraph": "graph", "CUgraphExec": "graph_exec", "CUgraphNode": "graph_node",
    "CUlinkState": "linker", "CUuserObject": "user_object", "CUgreenCtx": "green_context",
    "CUmemoryPool": "mem_pool", "CUmemGenericAllocationHandle": "mem_allocation", "CUarray": "array",
    "CUmipmappedArray": "mipmapped_array",
}
SCALARS = {
    "u16": "std::uint16_t", "u32": "std::uint32_t", "u64": "std::uint64_t", "i32": "std::int32_t",
    "int": "std::int32_t", "unsigned int": "std::uint32_t", "size_t": "std::uint64_t",
    "unsigned long long": "std::uint64_t", "cuuint32_t": "std::uint32_t", "cuuint64_t": "std::uint64_t",
    "unsigned char": "std::uint32_t", "unsigned short": "std::uint32_t", "CUdeviceptr": "std::uint64_t",
    "float": "float", "ArenaSpan": "ArenaSpan",
}
ENUMS = {
    "CUlimit", "CUfunc_cache", "CUsharedconfig", "CUfunction_attribute", "CUmemPool_attribute", "CUmemAccess_flags",
    "CUmemAllocationGranularity_flags", "CUpointer_attribute", "CUstreamCaptureMode",
    "CUstreamCaptureStatus", "CUgraphNodeType", "CUstreamAttrID", "CUkernelNodeAttrID", "CUarray_format",
    "CUflushGPUDirectRDMAWritesTarget", "CUflushGPUDirectRDMAWritesScope",
}
STRUCTS = {
    "CUmemPoolProps", "CUmemAccessDesc", "CUmemLocation", "CUmemAllocationProp", "CUDA_MEMCPY3D",
    "CUDA_MEMSET_NODE_PARAMS", "CUstreamAttrValue", "CUtensorMap", "CUDA_ARRAY3D_DESCRIPTOR", "CUDA_RESOURCE_DESC",
    "CUDA_TEXTURE_DESC", "CUDA_RESOURCE_VIEW_DESC", "CUkernelNodeAttrValue", "CUdevResource", "CUipcMemHandle",
    "CUipcEventHandle",
}
# What names devices, by the client's numbers of its own.
LOCATED = {"CUmemPoolProps", "CUmemAccessDesc", "CUmemLocation", "CUmemAllocationProp"}
# Default-stream variants exist of these only where cuda.h has them (source: cudaabi/symbols.tsv).
KINDS = {"local": "local", "async": "async", "wait": "wait", "wait!": "wait", "unsupported": "unsupported"}


# Calls on a stream that leave no work in it which a synchronisation of the context would have to wait for.
QUICK = ("cuEventRecord", "cuStreamCopyAttributes", "cuStreamSetAttribute")
# What may hold its stream back until the host, or another stream, gets on.
HOLDING = ("cuStreamWaitValue",)


class Field:
    def __init__(self, text):
        words = text.split()
        self.mode = words.pop(0) if words[0] in ("new", "in", "out", "out?", "device", "default") else ""
        self.name = words.pop()
        self.type = " ".join(words)
        self.pointer = self.type.endswith("*")
        self.base = self.type.rstrip("*")
        if self.pointer != (self.mode in ("new", "in", "out", "out?")):
            raise SystemExit(f"calls.tsv: pointer and mode do not fit in '{text}'")

    @property
    def in_record(self):
        return self.mode in ("", "new", "in", "default")

    @property
    def in_reply(self):
        return self.mode in ("out", "out?")

    @property
    def wire(self):
        if self.base in HANDLES:
            return "std::uint64_t"
        if self.base in SCALARS:
            return SCALARS[self.base]
        if self.base in ENUMS:
            return "std::int32_t"
        if self.base in STRUCTS:
            return self.base
        raise SystemExit(f"calls.tsv: unknown type '{self.base}'")

    @property
    def kind(self):
        return HANDLES.get(self.base)


class Row:
    def __init__(self, line):
        columns = (line + "\t" * 5).split("\t")
        self.name, self.kind_text, by, aliases, fields = (c.strip() for c in columns[:5])
        self.kind = KINDS[self.kind_text]
        self.synchronises = self.kind_text.endswith("!")
        self.client_by_hand = "c" in by
        self.worker_by_hand = "w" in by
        self.aliases = [a for a in aliases.split(",") if a and a != "-"]
        parts = [f.strip() for f in fields.split(";") if f.strip()]
        self.tail = "tail" in parts
        self.fields = [Field(p) for p in parts if p != "tail"]

    @property
    def sent(self):
        return self.kind in ("async", "wait")

    @property
    def handled_by_hand(self):
        """Whether the worker's dispatch gives the record to a member function of the session."""
        return self.sent and self.worker_by_hand

    @property
    def driver(self):
        return self.name.startswith("cu")


def read_rows(path):
    rows = [Row(l) for l in pathlib.Path(path).read_text().splitlines() if l and not l.startswith("#")]
    names = [r.name for r in rows]
    for name in names:
        if names.count(name) > 1:
            raise SystemExit(f"calls.tsv: {name} stands twice")
    return rows


def call_ids(rows, digest):
    out = [HEAD, "#pragma once\n\n#include <cstdint>\n\nnamespace vgpu {\n\n",
           "/// Numbers of the calls in records. They hold within one protocol hash only.\n",
           "enum class CallId : std::uint16_t {\n"]
    out += [f"  {r.name} = {i + 1},\n" for i, r in enumerate(rows)]
    out.append("};\n\n")
    out.append(f"inline constexpr std::uint16_t call_id_end = {len(rows) + 1};\n")
    out.append(f"inline constexpr std::uint64_t protocol_digest = 0x{digest}u;\n\n}}  // namespace vgpu\n")
    return "".join(out)


def records(rows):
    out = [HEAD, "#pragma once\n\n#include <cuda.h>\n\n#include <cstdint>\n\n",
           '#include "protocol/record.hpp"\n#include "vgpu/call_ids.hpp"\n\n',
           "// Of each waited call what the reply's payload holds, of each sent call the record: `header` first, then the\n"
           "// fields, then (kTail) variable bytes. A default-initialised record has its header's call set; the sender sets size.\n",
           "namespace vgpu::reply {\n\n"]
    for r in rows:
        if r.sent:
            fields = "".join(f"  {f.wire} {f.name}{{}};\n" for f in r.fields if f.in_reply)
            out.append(f"struct {r.name} {{\n{fields}}};\n" if fields else f"struct {r.name} {{}};\n")
    out.append("\n}  // namespace vgpu::reply\n\nnamespace vgpu::record {\n\n")
    for r in rows:
        if not r.sent:
            continue
        out.append(f"struct {r.name} {{\n")
        out.append(f"  static constexpr CallId call = CallId::{r.name};\n")
        out.append(f"  static constexpr bool kWait = {str(r.kind == 'wait').lower()};\n")
        out.append(f"  static constexpr bool kTail = {str(r.tail).lower()};\n")
        out.append(f"  using Reply = reply::{r.name};\n")
        out.append(f"  RecordHeader header{{static_cast<std::uint16_t>(call), 0, 0, 0, 0, 0}};\n")
        out += [f"  {f.wire} {f.name}{{}};\n" for f in r.fields if f.in_record]
        out.append("};\n\n")
    out.append("}  // namespace vgpu::record\n\nnamespace vgpu {\nnamespace records = record;\n}\n")
    return "".join(out)


def call_table(rows):
    out = [HEAD, '#include "protocol/call_table.hpp"\n\nnamespace vgpu {\nnamespace {\nconstexpr CallInfo table[] = {\n',
           '    {"none", CallKind::unsupported, false},\n']
    out += [f'    {{"{r.name}", CallKind::{r.kind}, {str(r.synchronises).lower()}}},\n' for r in rows]
    out.append("};\n}  // namespace\n\nstd::span<const CallInfo> call_table() { return table; }\n\n")
    out.append("const CallInfo* find_call(std::uint16_t call) {\n"
               "  return call != 0 && call < call_id_end ? &table[call] : nullptr;\n}\n\n}  // namespace vgpu\n")
    return "".join(out)


def c_type(f):
    base = {"u64": "unsigned long long", "u32": "unsigned int", "i32": "int"}.get(f.base, f.base)
    if f.mode == "in":
        return f"const {base}*"
    return base + ("*" if f.pointer else "")


def client_stub(r, variants):
    """The client's function of a regular row and the exported symbols that lead to it."""
    params = ", ".join(f"{c_type(f)} {f.name}" for f in r.fields if f.mode != "default")
    has_stream = bool(variants)
    out = [f"CUresult stub_{r.name}(" + ", ".join(filter(None, ["bool per_thread" if has_stream else "", params])) + ") {\n"]
    for f in r.fields:
        if f.mode in ("in", "out", "new"):
            out.append(f"  if ({f.name} == nullptr) return CUDA_ERROR_INVALID_VALUE;\n")
    out.append("  Call call;\n  if (const CUresult entered = call.enter(); entered != CUDA_SUCCESS) return entered;\n")
    for f in r.fields:
        if f.mode == "device":
            out.append(f"  if (const CUresult known = call.on_device({f.name}); known != CUDA_SUCCESS) return known;\n")
    out.append(f"  record::{r.name} record;\n")
    for f in r.fields:
        if not f.in_record:
            continue
        if f.mode == "default":
            value = "call.stream(nullptr, per_thread)"
        elif f.kind == "stream":
            value = f"call.stream({f.name}, {'per_thread' if has_stream else 'false'})"
        elif f.kind == "mem_allocation":
            value = f.name
        elif f.kind:
            value = f"reinterpret_cast<std::uint64_t>({f.name})"
        elif f.mode == "in":
            value = "*" + f.name
        elif f.base in ENUMS:
            value = f"static_cast<std::int32_t>({f.name})"
        else:
            value = f.name
        out.append(f"  record.{f.name} = {value};\n")
    # A call that nobody waits for would tell of a handle that is none at some later one.
    for f in r.fields:
        if r.kind == "async" and f.kind in ("event", "graph_exec") and f.mode != "new":
            error = "HANDLE" if f.kind == "event" else "VALUE"
            out.append(f"  if (!call.knows({f.name})) return CUDA_ERROR_INVALID_{error};\n")
    if memset := re.match(r"cuMemsetD(2D)?(8|16|32)", r.name):
        box = "dstPitch, {}, Width, Height" if memset[1] else "0, {}, N, 1"
        box = box.format(int(memset[2]) // 8)
        out.append(f"  if (!call.may_set(dstDevice, {box})) return CUDA_ERROR_INVALID_VALUE;\n")
    if r.name.startswith("cuEventRecord"):
        out.append("  if (!call.may_record(hEvent)) return CUDA_ERROR_INVALID_HANDLE;\n")
    if r.kind == "async":
        out.append("  return call.post(record);\n}\n")
    else:
        out.append(f"  reply::{r.name} reply;\n  const CUresult result = call.ask(record, reply);\n")
        outs = [f for f in r.fields if f.in_reply]
        if outs:
            out.append("  if (result != CUDA_SUCCESS) return result;\n")
        for f in outs:
            cast = f"static_cast<{f.base}>(reply.{f.name})" if f.base not in STRUCTS else f"reply.{f.name}"
            test = f"if ({f.name} != nullptr) " if f.mode == "out?" else ""
            out.append(f"  {test}*{f.name} = {cast};\n")
        out.append("  return result;\n}\n")
    return "".join(out), params


def client_stubs(rows, symbols):
    body, exports = [], []
    undef = set()
    for r in rows:
        if not r.sent or r.client_by_hand:
            continue
        variants = {}
        for base in [r.name] + r.aliases:
            for suffix in ("_ptsz", "_ptds"):
                if base + suffix in symbols:
                    variants[base + suffix] = True
        text, params = client_stub(r, variants)
        body.append(text + "\n")
        names = ", ".join(f.name for f in r.fields if f.mode != "default")
        for symbol in [r.name] + r.aliases + list(variants):
            if symbol not in symbols:
                raise SystemExit(f"calls.tsv: libcuda.so.1 exports no {symbol}")
            thread = "true" if symbol in variants else "false"
            call = ", ".join(filter(None, [thread if variants else "", names]))
            undef.add(symbol)
            exports.append(f"VGPU_EXPORT CUresult {symbol}({params}) {{ return vgpu::client::stub_{r.name}({call}); }}\n")
    out = [HEAD, "#include <cuda.h>\n\n", '#include "libclient/cuda/stub_runtime.hpp"\n#include "vgpu/records.hpp"\n\n',
           "// cuda.h maps old names to new symbols; here each exported symbol is written as it is exported.\n"]
    out += [f"#undef {s}\n" for s in sorted(undef)]
    out.append('\n#define VGPU_EXPORT extern "C" __attribute__((visibility("default")))\n\n')
    out.append("namespace vgpu::client {\nnamespace {\n\n" + "".join(body) + "}  // namespace\n}  // namespace vgpu::client\n\n")
    out.append("// NOLINTBEGIN(readability-identifier-naming)\n" + "".join(exports) + "// NOLINTEND(readability-identifier-naming)\n")
    return "".join(out)


def driver_table(rows):
    names = [r for r in rows if r.driver and r.kind != "unsupported"]
    header = [HEAD, "#pragma once\n\n#include <cuda.h>\n#include <cudaProfiler.h>\n\n"
              "// Deprecated calls are still made by programs.\n#pragma GCC diagnostic push\n"
              "#pragma GCC diagnostic ignored \"-Wdeprecated-declarations\"\n\nnamespace vgpu::worker {\n\n",
              "/// The driver library's functions; nullptr where it does not export one.\nstruct DriverTable {\n"]
    header += [f"  decltype(&::{r.name}) {r.name} = nullptr;\n" for r in names]
    header.append("};\n\n/// Calls f(function pointer by reference, name) for each function of the table.\ntemplate <class F>\n"
                  "void for_each_function(DriverTable& table, F&& f) {\n" +
                  "".join(f'  f(table.{r.name}, "{r.name}");\n' for r in names) +
                  "}\n\n/// Fills the table from a library opened by dlopen; how many functions were found.\n"
                  "int load_driver_table(void* library, DriverTable& table);\n\n}  // namespace vgpu::worker\n\n#pragma GCC diagnostic pop\n")
    source = [HEAD, '#include "vgpu/driver_table.hpp"\n\n#include <dlfcn.h>\n\nnamespace vgpu::worker {\n\n',
              "namespace {\ntemplate <class F>\nint find(void* library, F& function, const char* name, const char* alias) {\n"
              "  if (function == nullptr) function = reinterpret_cast<F>(dlsym(library, name));\n"
              "  if (function == nullptr && alias != nullptr) function = reinterpret_cast<F>(dlsym(library, alias));\n"
              "  return function != nullptr ? 1 : 0;\n}\n}  // namespace\n\n",
              "int load_driver_table(void* library, DriverTable& table) {\n  int found = 0;\n"]
    for r in names:
        # Only an alias of the same signature may stand in: rows made wholly by the generator.
        alias = f'"{r.aliases[0]}"' if r.aliases and not r.worker_by_hand else "nullptr"
        source.append(f'  found += find(library, table.{r.name}, "{r.name}", {alias});\n')
    source.append("  return found;\n}\n\n}  // namespace vgpu::worker\n")
    return "".join(header), "".join(source)


def worker_dispatch(rows):
    """One function a sent call: copies the fields, resolves handles, calls the driver or the function made by hand."""
    out = [HEAD]
    for r in rows:
        if not r.sent:
            continue
        out.append(f"CUresult run_{r.name}(Session& session, std::span<const std::byte> bytes, ReplyBuffer& out) {{\n")
        out.append(f"  record::{r.name} record;\n  std::span<const std::byte> tail;\n")
        out.append("  if (!read_record(bytes, record, tail)) return CUDA_ERROR_INVALID_VALUE;\n")
        if r.handled_by_hand:
            out.append(f"  reply::{r.name} reply;\n")
            out.append("  const CUresult result = session.handle(record, reply, tail);\n  out.put(reply);\n  return result;\n}\n\n")
            continue
        # Calls without a stream run in the default stream of the caller, which may be a per-thread one.
        name = r.name.removesuffix("_v2") + "Async" if any(f.mode == "default" for f in r.fields) else r.name
        out.append(f"  const auto driver_call = session.driver().{name};\n")
        out.append("  if (driver_call == nullptr) return session.unsupported(record.header.call);\n")
        args, after = [], []
        for f in r.fields:
            if f.mode == "device":
                args.append("session.device()")
            elif f.mode == "new":
                out.append(f"  {f.base} new_{f.name}{{}};\n")
                args.append(f"&new_{f.name}")
                parent = next((g for g in r.fields if g.mode == "" and g.kind in ("module", "library", "kernel")), None)
                owner = f", session.owner_of(HandleKind::{parent.kind}, record.{parent.name})" if parent else ""
                after.append(f"    session.bind(HandleKind::{f.kind}, record.{f.name}, new_{f.name}{owner});\n")
            elif f.in_reply:
                out.append(f"  {f.base if f.base != 'u64' else 'std::uint64_t'} out_{f.name}{{}};\n")
                args.append(f"&out_{f.name}")
            elif f.kind:
                out.append(f"  {f.base} {f.name}{{}};\n")
                out.append(f"  if (!session.resolve(record.{f.name}, {f.name})) return CUDA_ERROR_INVALID_HANDLE;\n")
                args.append(f.name)
            elif f.mode == "in":
                if f.base in LOCATED:
                    out.append(f"  session.to_driver(record.{f.name});\n")
                args.append(f"&record.{f.name}")
            else:
                args.append(f"static_cast<{f.base}>(record.{f.name})")
        for f in r.fields:
            if f.mode == "new":
                out.append(f"  if (!session.can_bind(HandleKind::{f.kind}, record.{f.name})) return CUDA_ERROR_INVALID_HANDLE;\n")
        out.append(f"  const CUresult result = driver_call({', '.join(args)});\n")
        streams = [f.name for f in r.fields if f.kind == "stream"]
        if r.kind == "async" and streams and not r.name.startswith(QUICK):
            after.append(f"    session.note_stream_work({streams[0]});\n")
            if r.name.startswith(HOLDING):
                after.append(f"    session.note_held({streams[0]});\n")
        if after:
            out.append("  if (result == CUDA_SUCCESS) {\n" + "".join(after) + "  }\n")
        replies = [f for f in r.fields if f.in_reply]
        if replies:
            out.append(f"  reply::{r.name} reply;\n")
            for f in replies:
                cast = f"out_{f.name}" if f.base in STRUCTS else f"static_cast<{f.wire}>(out_{f.name})"
                out.append(f"  reply.{f.name} = {cast};\n")
                if f.base in LOCATED:
                    out.append(f"  session.to_client(reply.{f.name});\n")
            out.append("  out.put(reply);\n")
        else:
            out.append("  static_cast<void>(out);\n")
        out.append("  return result;\n}\n\n")
    out.append("constexpr Runner runners[] = {\n    nullptr,\n")
    out += [f"    {'&run_' + r.name if r.sent else 'nullptr'},\n" for r in rows]
    out.append("};\n")
    return "".join(out)


def worker_handlers(rows):
    """The session's member functions that worker_dispatch() calls."""
    return HEAD + "".join(f"CUresult handle(const record::{r.name}& record, reply::{r.name}& reply, Tail tail);\n"
                          for r in rows if r.handled_by_hand)


def arena_spans(rows):
    """For each sent call the places of its ArenaSpans in the record: what the link of a guest has to carry along."""
    out = [HEAD]
    for r in rows:
        spans = [f.name for f in r.fields if f.base == "ArenaSpan" and f.in_record]
        if r.sent and spans:
            places = ", ".join(f"offsetof(record::{r.name}, {name})" for name in spans)
            out.append(f"{{CallId::{r.name}, sizeof(record::{r.name}), {{{places}}}}},\n")
    return "".join(out)


def compatibility(rows, symbols_path, appendix, target):
    symbols = {}
    for line in pathlib.Path(symbols_path).read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, symbol, _ = line.split("\t")
            symbols.setdefault(name, set()).add(symbol)
    status = {}
    for r in rows:
        for symbol in [r.name] + r.aliases:
            status[symbol] = r
    text = ["# Driver calls: what is supported\n\n",
            "Generated from `protocol/calls.tsv` (`cmake --build build/release --target compatibility-page`). Every other function of\n",
            "cuda.h is exported too and answers `CUDA_ERROR_NOT_SUPPORTED`; `vgpud-cli stats` counts such calls.\n\n",
            "- **local**: answered inside the client's process\n",
            "- **sent**: goes to the worker without waiting; an error comes out at the next synchronising call\n",
            "- **waited**: goes to the worker and waits for the answer\n\n",
            "| call | how it is answered |\n|---|---|\n"]
    words = {"local": "local", "async": "sent", "wait": "waited", "unsupported": "not supported"}
    missing = []
    for name in sorted(symbols):
        found = next((status[s] for s in sorted(symbols[name], reverse=True) if s in status), None)
        if found and found.kind != "unsupported":
            text.append(f"| {name} | {words[found.kind]} |\n")
        else:
            missing.append(name)
    text.append("\n## Not supported\n\n" + ", ".join(missing) + "\n")
    if pathlib.Path(appendix).exists():
        text.append("\n" + pathlib.Path(appendix).read_text())
    pathlib.Path(target).write_text("".join(text))


def main(argv):
    if argv[1] == "docs":
        compatibility(read_rows(argv[2]), argv[3], argv[4], argv[5])
        return
    rows = read_rows(argv[2])
    out = pathlib.Path(argv[3]) / "vgpu"
    out.mkdir(parents=True, exist_ok=True)
    symbols = {l.split("\t")[2] for l in pathlib.Path(argv[4]).read_text().splitlines() if l and not l.startswith("#")}
    digest = hashlib.sha256()
    digest.update(pathlib.Path(argv[2]).read_bytes())
    for path in argv[5:]:
        digest.update(pathlib.Path(path).read_bytes())
    (out / "call_ids.hpp").write_text(call_ids(rows, digest.hexdigest()[:16]))
    (out / "records.hpp").write_text(records(rows))
    (out / "call_table.cpp").write_text(call_table(rows))
    (out / "client_stubs.cpp").write_text(client_stubs(rows, symbols))
    header, source = driver_table(rows)
    (out / "driver_table.hpp").write_text(header)
    (out / "driver_table.cpp").write_text(source)
    (out / "worker_dispatch.inc").write_text(worker_dispatch(rows))
    (out / "worker_handlers.inc").write_text(worker_handlers(rows))
    (out / "arena_spans.inc").write_text(arena_spans(rows))


if __name__ == "__main__":
    main(sys.argv)
