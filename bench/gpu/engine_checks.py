"""llama.cpp's engine on the card, natively and through vgpud: the same tokens and logits, and llama.cpp's own operator tests.
Used by bench/gpu/run; needs a folder like the one that tests/engine/setup.sh prepares, with an engine for this card."""

import json
import sys
import time

from measuring import ROOT

sys.path.insert(0, str(ROOT / "tests" / "engine"))

NO_GRAPHS = {"GGML_CUDA_DISABLE_GRAPHS": "1"}
# format, length of the prompt, flash attention, CUDA graphs
RUNS = ([("q8_0", length, flash, graphs) for length in (1, 42, 300) for flash in (False, True) for graphs in (False, True)] +
        [(kind, 42, True, graphs) for kind in ("f16", "q4_0", "q4_K") for graphs in (False, True)])
OPERATIONS_SECONDS = 200
PROCESSES = 8


def tokens(harness, table):
    import engine
    same = 0
    with harness.Service() as service:
        service.wait_for_workers()
        for kind, length, flash, graphs in RUNS:
            path = engine.model(kind)
            more = {} if graphs else NO_GRAPHS
            native = engine.generate(path, engine.environment([], **more), prompt_length=length, flash=flash)
            shared = engine.generate(path, engine.service_environment(service, **more), prompt_length=length, flash=flash)
            if native.tokens == shared.tokens and native.logits == shared.logits:
                same += 1
            else:
                print(f"  {kind}, prompt of {length}, flash {flash}, graphs {graphs}: logits differ by "
                      f"{engine.distance(native.logits, shared.logits):.2g}, tokens {native.tokens} {shared.tokens}", flush=True)
    table.say(f"llama.cpp's tokens and logits: {same} of {len(RUNS)} runs are bit for bit the native ones")
    if same != len(RUNS):
        raise AssertionError("the engine computes something else than natively")


def operations(harness, options, table):
    """Every case through vgpud, as far as the time goes; those that fail there again natively."""
    import backend_ops
    import engine
    journal = options.log / "operations.journal"
    with engine.device("vgpud", prestart=PROCESSES) as (env, service):
        cases = backend_ops.all_cases(engine.home(), env)
        results = backend_ops.Results(journal)
        results.read(cases)
        backend_ops.run(engine.home(), env, cases, results, service, timeout=120,
                        until=time.monotonic() + OPERATIONS_SECONDS, jobs=PROCESSES)
    bad = results.of(*backend_ops.BAD)
    native = backend_ops.Results()
    with engine.device("native") as (env, service):
        backend_ops.run(engine.home(), env, bad, native, timeout=120)
    worse = [case for case in bad if native.verdicts.get(case) == "OK"]
    (options.log / "operations.tsv").write_text(results.table(cases))
    for case in worse:
        print(f"  {results.verdicts[case]} {backend_ops.name(case)}: {results.reasons[case]}", flush=True)
    counts = {verdict: len(results.of(verdict)) for verdict in backend_ops.VERDICTS if results.of(verdict)}
    table.say(f"llama.cpp's operator tests through vgpud: {json.dumps(counts)} of {len(cases)}; "
              f"{len(worse)} fail that pass natively")
    if worse:
        raise AssertionError(f"{len(worse)} operator cases fail through vgpud alone")
