#!/usr/bin/env bash
# Everything that is checked about vgpud, on a machine without a GPU: formats, the release build with all unit,
# program and scenario tests, the unit tests that have threads under ThreadSanitizer, all under AddressSanitizer with
# UndefinedBehaviorSanitizer, the fuzzers for 30 seconds in all, and clang-tidy on what changed (VGPU_TIDY=all: on
# everything). The last line says `N passed, N failed`; the exit status is 0 only if nothing failed.
set -uo pipefail
cd "$(dirname "$0")"

jobs=$(nproc)
limit=${VGPU_TEST_SECONDS:-1140}  # clang-tidy gets what is left of this when all else is done.
fuzz_seconds=${VGPU_FUZZ_SECONDS:-30}
passed=0
failed=0
failures=()
mkdir -p build

say() { printf '\n== [%4ds] %s\n' "$SECONDS" "$*"; }

# result NAME STATUS: counts one check.
result() {
  if (($2 == 0)); then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    failures+=("$1")
    echo "FAILED: $1"
  fi
}

# check NAME COMMAND...: runs a command quietly, shows the end of its output where it fails, counts it.
check() {
  local name=$1 log
  shift
  log=build/$(tr -c 'a-zA-Z0-9\n' '-' <<<"$name").log
  "$@" >"$log" 2>&1
  local status=$?
  ((status == 0)) || tail -n 40 "$log"
  result "$name" "$status"
  return "$status"
}

# run_ctest PRESET ARGUMENTS...: runs CTest and counts every test of its own.
run_ctest() {
  local preset=$1 report=build/$1-tests.xml name
  shift
  rm -f "$report"
  ctest --test-dir "build/$preset" --output-on-failure --output-junit "$PWD/$report" "$@" 2>&1 |
    grep -vE '^ *(Start |[0-9]+/[0-9]+ .* Passed )'
  local good bad
  read -r good bad < <(python3 tools/count_tests.py "$report" "build/$preset-failed.txt")
  passed=$((passed + good))
  failed=$((failed + bad))
  while read -r name; do failures+=("$preset: $name"); done <"build/$preset-failed.txt"
  echo "$preset: $good passed, $bad failed"
}

fuzz() {
  local fuzzers=(build/asan-ubsan/fuzzers/*) fuzzer share name folder dictionary
  [[ -x "${fuzzers[0]}" ]] || { result "fuzzers exist" 1; return; }
  share=$((fuzz_seconds / ${#fuzzers[@]}))
  for fuzzer in "${fuzzers[@]}"; do
    name=$(basename "$fuzzer")
    mkdir -p "build/corpus/$name"
    # Seeds and dictionary lie beside the fuzzer's source: corpus/ and *.dict.
    folder=$(dirname "$(git grep -l "vgpu_fuzzer($name " -- '*CMakeLists.txt' | head -n 1)")
    dictionary=$(git ls-files "$folder/*.dict" | head -n 1)
    check "fuzz $name ${share}s" "$fuzzer" -max_total_time="$share" -timeout=10 -rss_limit_mb=2048 \
      ${dictionary:+-dict="$dictionary"} -artifact_prefix="build/$name-" "build/corpus/$name" \
      $([[ -d $folder/corpus ]] && echo "$folder/corpus")
  done
}

# Files to look at by clang-tidy: those that differ from the main branch's past, newest change first.
tidy_files() {
  if [[ ${VGPU_TIDY:-changed} == all ]]; then
    git ls-files '*.cpp'
    return
  fi
  local base
  base=$(git merge-base HEAD origin/main 2>/dev/null || true)
  [[ -n "$base" && "$base" != "$(git rev-parse HEAD)" ]] || base=$(git rev-parse -q --verify HEAD~1 || git rev-parse HEAD)
  git diff --name-only --diff-filter=d "$base" -- '*.cpp'
}

tidy() {
  local left=$((limit - SECONDS))
  ((${VGPU_TIDY_SECONDS:-0} > 0)) && left=$VGPU_TIDY_SECONDS
  if ((left < 20)); then
    echo "No time is left for clang-tidy; run VGPU_TIDY=all ./test.sh on a faster machine."
    return
  fi
  tidy_files | VGPU_SECONDS=$left tools/tidy.sh
  result "clang-tidy" "${PIPESTATUS[1]}"
}

say "Setting up"
if ! tools/setup.sh; then
  echo "0 passed, 1 failed"
  exit 1
fi

say "Formats"
check "clang-format" bash -c "git ls-files '*.cpp' '*.hpp' '*.cu' | xargs clang-format --dry-run -Werror"

say "Release build"
if check "configure release" cmake --preset release && check "build release" cmake --build --preset release; then
  say "Unit, program and scenario tests"
  run_ctest release -j "$jobs"
fi

for preset in tsan asan-ubsan; do
  say "Unit tests, $preset"
  if check "configure $preset" cmake --preset "$preset" &&
    check "build $preset" cmake --build --preset "$preset" --target unit_tests; then
    run_ctest "$preset" -L unit -j "$jobs"
  fi
done

say "Fuzzers, $fuzz_seconds s in all"
if check "build fuzzers" cmake --build --preset asan-ubsan --target fuzzers; then
  fuzz
fi

say "clang-tidy"
tidy

say "Summary"
for name in "${failures[@]}"; do echo "FAILED: $name"; done
echo "$passed passed, $failed failed"
((failed == 0))
