#!/bin/sh
# What tests/gpu.sh needs of a build, in a folder for a machine that has an NVIDIA driver and
# CUDA's libraries and nothing of ours:
#
#   meson setup build-gpu -Dcuda=enabled -Dopenblas=disabled -Dsentencepiece=disabled
#   ninja -C build-gpu && sh tests/gpu_folder.sh build-gpu gpu-folder
#
# There, in a checkout: sh tests/gpu.sh gpu-folder
set -eu

build=${1:?usage: sh tests/gpu_folder.sh BUILD_DIR FOLDER}
to=${2:?usage: sh tests/gpu_folder.sh BUILD_DIR FOLDER}
mkdir -p "$to/tools" "$to/tests" "$to/lib"
for program in "$build"/tools/ccq-quantize "$build"/tools/ccq-run "$build"/tests/test_gpu* \
  "$build"/tests/bench_gpu "$build"/tests/make_checkpoint; do
  [ -f "$program" ] && [ -x "$program" ] || continue
  copy=$to/$(basename "$(dirname "$program")")/$(basename "$program")
  strip -o "$copy" "$program"
  # the C and C++ libraries are every machine's own
  ldd "$program" | awk '$3 ~ /^\// && $1 !~ /^lib(c|m|stdc\+\+|gcc_s|pthread|dl|rt)\.so/ {print $3}'
done | sort -u | while read -r library; do
  cp -L "$library" "$to/lib/"
done
du -sh "$to"
