#!/usr/bin/env bash
# Runs clang-tidy over the source files named on standard input, two at a time, until the time in VGPU_SECONDS (default
# 600) is over; says how many were looked at. Ends with 1 if any had a finding.
#   git ls-files '*.cpp' | tools/tidy.sh
set -uo pipefail
cmake --preset tidy >/dev/null && cmake --build --preset tidy >/dev/null || exit 1
build=build/tidy
seconds=${VGPU_SECONDS:-600}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
end=$((SECONDS + seconds))
export build folder end

one() {
  local file=$1 left=$2 log
  log=$folder/$(tr / _ <<<"$file")
  timeout "$left" clang-tidy --quiet -p "$build" "$file" >"$log.out" 2>"$log.err"
  case $? in
    0) echo "$file" >>"$folder/good" ;;
    124) ;;
    *)
      echo "$file" >>"$folder/bad"
      grep -E 'error:|warning:' "$log.out" | head -n 20
      ;;
  esac
}
export -f one

: >"$folder/good"
: >"$folder/bad"
total=0
while read -r file; do
  # A file that is in no target of this build (another preset's) has no command to check it with.
  grep -qF "/$file\"" "$build/compile_commands.json" || continue
  total=$((total + 1))
  ((SECONDS < end)) || continue
  while (($(jobs -rp | wc -l) >= $(nproc))); do wait -n; done
  left=$((end - SECONDS))
  ((left > 0)) && one "$file" "$left" &
done
wait
good=$(wc -l <"$folder/good")
bad=$(wc -l <"$folder/bad")
echo "clang-tidy: $good of $total files clean, $bad with findings, $((total - good - bad)) not looked at in the time"
((bad == 0))
