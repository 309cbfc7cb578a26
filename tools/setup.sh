#!/usr/bin/env bash
# Makes a Debian 12 machine (or a later Debian, Ubuntu) ready to build and test vgpud: installs what is missing, does
# nothing where nothing is. The CUDA Toolkit is expected; where there is none, it says so and ends with 1.
set -euo pipefail

find_nvcc() {
  local candidate
  for candidate in "${CUDACXX:-}" "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" "$(command -v nvcc || true)"; do
    if [[ -n "$candidate" && -x "$candidate" ]]; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

if ! find_nvcc >/dev/null; then
  echo "vgpud needs the CUDA Toolkit (12 or newer) to build and test: no nvcc in /usr/local/cuda/bin or on PATH;" \
    "install it from https://developer.nvidia.com/cuda-downloads (no GPU and no driver are needed)." >&2
  exit 1
fi

packages=(
  cmake ninja-build g++ clang clang-format clang-tidy libclang-rt-14-dev ccache pkg-config git python3
  libboost-dev libsystemd-dev libyaml-cpp-dev libspdlog-dev libcli11-dev nlohmann-json3-dev
  libxxhash-dev libzstd-dev liblz4-dev libexpected-dev libgtest-dev libbenchmark-dev libopenblas0-pthread libncurses-dev
  prometheus-cpp-dev libmicrohttpd-dev tmux
  systemd-container qemu-system-x86 seabios cpio kmod
)
# For llama.cpp's prebuilt engine; a Node.js that did not come from Debian brings its own, which Debian's conflicts with.
command -v npm >/dev/null || packages+=(npm)

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ "$state" == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "These packages are missing, and installing them needs root: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "Installing ${#missing[@]} packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
