#!/usr/bin/env bash
# Prepares llama.cpp's unmodified CUDA build (Ollama's engine) for the tests: npm's prebuilt libraries, the matching
# source for headers and test-backend-ops, our small driver program. Idempotent; everything stays in one cache folder
# outside the repository. Prints that folder.
#
#   tests/engine/setup.sh            prepare if need be, print the folder
#   VGPUD_ENGINE_CACHE=DIR           the folder (default ~/.cache/vgpud/engine-VERSION)
#
# In the folder: bin/ (libraries, operations, vgpud-generate), cpu/ (the CPU backends alone), src/ (llama.cpp at
# the engine's release), models/ (GGUFs written by mkgguf.py).
set -euo pipefail

readonly version=3.22.1
readonly package="@node-llama-cpp/linux-x64-cuda@$version"
readonly source_package="node-llama-cpp@$version"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly cache=${VGPUD_ENGINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vgpud/engine-$version}

say() { printf 'engine: %s\n' "$*" >&2; }
need() { command -v "$1" >/dev/null || { say "needs $1 ($2)"; exit 2; }; }

need git "Debian: apt-get install git"
need g++ "Debian: apt-get install g++"
need npm "Debian: apt-get install npm"

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9

# fetch NAME@VERSION DESTINATION: the files of an npm package, without running any of its scripts.
fetch() {
  local spec=$1 destination=$2 work
  [[ -d $destination ]] && return
  say "fetching $spec"
  work=$(mktemp -d "$cache/fetch.XXXXXX")
  if ! (cd "$work" && npm pack --silent --fetch-retries=2 "$spec" >/dev/null && tar xzf ./*.tgz); then
    rm -rf "$work"
    say "cannot fetch $spec from npm's registry (see above). Without a network, leave these tests out:" \
      "cmake --preset release -DVGPU_TEST_ENGINE=OFF; or copy $cache from a machine that has run them."
    exit 2
  fi
  mv "$work/package" "$destination"
  rm -rf "$work"
}

fetch "$package" "$cache/package"
fetch "$source_package" "$cache/source-package"

if [[ ! -d $cache/src ]]; then
  say "unpacking llama.cpp's source"
  rm -rf "$cache/src.new"
  git -c advice.detachedHead=false clone -q "$cache/source-package/llama/gitRelease.bundle" "$cache/src.new"
  mv "$cache/src.new" "$cache/src"
fi

readonly libraries=$cache/package/bins/linux-x64-cuda
mkdir -p "$cache/bin" "$cache/cpu" "$cache/models"
ln -sf "$libraries"/*.so "$cache/bin/"
ln -sf "$libraries"/libggml-cpu-*.so "$cache/cpu/"

# The toolkit's runtime, which the engine expects to find beside itself or on the library path.
runtime=$(find -L /usr/local/cuda/lib64 /usr/local/cuda/targets -name libcudart.so.13 2>/dev/null | head -n 1 || true)
[[ -n $runtime ]] || { say "needs libcudart.so.13 (CUDA Toolkit 13)"; exit 2; }
ln -sf "$runtime" "$cache/bin/"

# build OUTPUT SOURCE: one program against the prebuilt libraries, rebuilt when its source changes (not its date: every clone
# has new dates).
build() {
  local output=$cache/bin/$1 source=$2 sum
  sum=$(sha256sum <"$source")
  [[ -x $output && $(cat "$output.sum" 2>/dev/null) == "$sum" ]] && return
  say "building $1"
  # libggml-cuda.so itself is loaded at run time; libcuda and cuBLAS are therefore not needed to link.
  nice g++ -std=c++17 -O1 -I "$cache/src/ggml/include" -I "$cache/src/include" -I "$cache/src/ggml/src" \
    -I "$cache/src/tests" "$source" -o "$output.new" -L "$cache/bin" -l:libllama.cuda.v0.5.0.so \
    -l:libggml.cuda.v0.5.0.so -l:libggml-base.so -Wl,-rpath,'$ORIGIN' -pthread
  mv "$output.new" "$output"
  printf '%s\n' "$sum" >"$output.sum"
}

build vgpud-generate "$here/generate.cpp"
build operations "$here/operations.cpp"

printf '%s\n' "$cache"
