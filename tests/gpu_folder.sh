#!/bin/sh
# What tests/gpu.sh needs of a build, in a folder for a machine that has an NVIDIA driver and
# CUDA's libraries and nothing of ours:
#
#   meson setup build-gpu -Dcuda=enabled -Dopenblas=disabled -Dsentencepiece=disabled
#   ninja -C build-gpu && sh tests/gpu_folder.sh build-gpu gpu-folder
#
# There, in a checkout: sh tests/gpu.sh gpu-folder
#
# Fails when the folder is larger than 64 MiB, or a program lacks a library.
set -eu

build=${1:?usage: sh tests/gpu_folder.sh BUILD_DIR FOLDER}
to=${2:?usage: sh tests/gpu_folder.sh BUILD_DIR FOLDER}
most=65536 # KiB

# what a program needs beside the C and C++ libraries, which are every machine's own
libraries_of() {
  ldd "$1" | awk '$3 ~ /^\// && $1 !~ /^lib(c|m|stdc\+\+|gcc_s|pthread|dl|rt)\.so/ {print $3}'
}

mkdir -p "$to/tools" "$to/tests" "$to/lib"
for program in "$build"/tools/ccq-quantize "$build"/tools/ccq-run "$build"/tests/test_gpu* \
  "$build"/tests/test_device_pass "$build"/tests/bench_gpu "$build"/tests/make_checkpoint; do
  [ -f "$program" ] && [ -x "$program" ] || continue
  strip -o "$to/$(basename "$(dirname "$program")")/$(basename "$program")" "$program"
  libraries_of "$program"
done | sort -u | while read -r library; do
  cp -L "$library" "$to/lib/"
done
for program in "$to"/tools/* "$to"/tests/*; do
  readelf -d "$program" | grep -q 'R.*PATH.*\$ORIGIN/../lib' || {
    echo "$program: no run path to $to/lib: is it a build with CUDA?" >&2
    exit 1
  }
  for library in $(libraries_of "$program"); do
    case $library in
      "$to"/*|"$(cd "$to" && pwd)"/*) ;;
      *)
        echo "$program: takes $library, not the folder's" >&2
        exit 1
        ;;
    esac
  done
done
size=$(du -sk "$to" | cut -f1)
echo "$to: $size KiB"
[ "$size" -le "$most" ] || {
  echo "$to: more than $most KiB" >&2
  exit 1
}
