#!/usr/bin/env bash
# Shows vgpud at work on this machine: sets up, builds, starts a private vgpud (on the NVIDIA GPU where there is one,
# on the software GPU otherwise), runs two CUDA programs at once with the statistics beside them, verifies one, and
# stops everything. Needs no terminal, can be run again and again, leaves no process behind.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\n== %s\n' "$*"; }

say "Setting up"
tools/setup.sh

say "Building (build/release)"
mkdir -p build
if ! { cmake --preset release && cmake --build --preset release --target demo; } >build/demo.log 2>&1; then
  tail -n 40 build/demo.log
  echo "The build failed; its whole log is build/demo.log." >&2
  exit 1
fi
programs=build/release/tests/programs
cli=build/release/bin/vgpud-cli

folder=$(mktemp -d /tmp/vgpud-demo-XXXXXX)
service=
clients=()
stop() {
  local pid
  for pid in "${clients[@]}"; do kill "$pid" 2>/dev/null || true; done
  if [[ -n "$service" ]]; then
    kill "$service" 2>/dev/null || true
    wait "$service" 2>/dev/null || true
  fi
  rm -rf "$folder"
}
trap stop EXIT

export VGPUD_SOCKET=$folder/vgpud.sock VGPUD_CONTROL=$folder/control.sock
cat >"$folder/vgpud.yaml" <<'YAML'
log: {level: warning, target: stderr}
devices: [{name: gpu0, kind: auto, prestart: 2}]
classes:
  default: {weight: 100}
YAML

say "Starting a private vgpud"
build/release/bin/vgpud --config "$folder/vgpud.yaml" --socket "$VGPUD_SOCKET" --control "$VGPUD_CONTROL" &
service=$!
for _ in $(seq 200); do
  if "$cli" devices --json 2>/dev/null | grep -qE '"workers_ready": [1-9]'; then break; fi
  if ! kill -0 "$service" 2>/dev/null; then
    echo "vgpud did not start." >&2
    exit 1
  fi
  sleep 0.1
done
"$cli" devices

say "Two unmodified CUDA programs at once: nbody (static cudart) and mandelbrot (shared cudart)"
"$cli" run -- "$programs/nbody" --seconds 6 >"$folder/nbody.txt" 2>&1 &
clients+=($!)
"$cli" run -- "$programs/mandelbrot_shared" --seconds 6 >"$folder/mandelbrot.txt" 2>&1 &
clients+=($!)
sleep 2
say "vgpud-cli stats, while they run"
"$cli" stats
sleep 2
say "vgpud-cli stats, two seconds later"
"$cli" stats
failed=0
for pid in "${clients[@]}"; do wait "$pid" || failed=1; done
clients=()
say "What they printed"
cat "$folder/mandelbrot.txt" "$folder/nbody.txt"
if ((failed)); then
  echo "A program failed." >&2
  exit 1
fi

say "vgpud-cli verify: did the work reach the device?"
"$cli" verify -- "$programs/matmul_tiled"

say "Done"
