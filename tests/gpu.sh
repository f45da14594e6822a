#!/bin/sh
# All tests and benchmarks of a GPU in a few minutes: correctness first, then the tables.
#
#   sh tests/gpu.sh [BUILD_DIR [OUT_DIR [DEVICE]]]
#
# BUILD_DIR (default build) may be a folder that tests/gpu_folder.sh made on another machine:
# an NVIDIA driver is all that is needed here, and cuBLAS for dense products; with Python 3 and
# compute-sanitizer more is tested, and what they would do counts as skipped without them.
# OUT_DIR (default gpu-results) gets logs, bench.jsonl and table.txt. DEVICE (default cuda)
# "host" runs the same on the CPU, small, without tables: a test of this script and of the
# kernels' code. Correctness first, then the tables, then compute-sanitizer.
# Exit: 0 all passed, 1 not, 77 there is no GPU.
set -u

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
build=$(CDPATH='' cd -- "${1:-build}" && pwd) || exit 1
mkdir -p "${2:-gpu-results}" || exit 1
out=$(CDPATH='' cd -- "${2:-gpu-results}" && pwd) || exit 1
device=${3:-cuda}
for libs in "$build/lib" "${CUDA_HOME:-/usr/local/cuda}/lib64"; do
  [ -d "$libs" ] && LD_LIBRARY_PATH=$libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
export CCQ_DATA="$top/tests/data"
# A kernel that hangs ends one check.
quantize() { timeout -k 10 300 "$build/tools/ccq-quantize" "$@"; }
run() { timeout -k 10 300 "$build/tools/ccq-run" "$@"; }
model=$top/tests/data/ernie-micro
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0
first=$(date +%s)

# check NAME COMMAND...: its output goes to OUT_DIR/NAME.log
check() {
  name=$1
  shift
  began=$(date +%s)
  "$@" >"$out/$name.log" 2>&1
  status=$?
  case $status in
    0) passed=$((passed + 1)) word="ok, $(($(date +%s) - began)) s" ;;
    77) skipped=$((skipped + 1)) word=skipped ;;
    *) failed=$((failed + 1)) word="FAILED ($status)" ;;
  esac
  printf '%-40s %s\n' "$name" "$word"
  if [ "$status" -ne 0 ] && [ "$status" -ne 77 ]; then
    tail -n 15 "$out/$name.log" | sed 's/^/    /'
  fi
  return 0
}

# all_of TEST...: those of BUILD_DIR that are there, on the device
all_of() {
  for test in "$@"; do
    [ -x "$test" ] && [ ! -d "$test" ] || continue
    check "$(basename "$test")" timeout -k 10 300 "$test" "$device"
  done
}

# sanitized TOOL TEST: not for long. Too slow, or a machine that does not let it: skipped.
sanitized() {
  timeout -k 10 100 compute-sanitizer --tool "$1" --error-exitcode 1 "$2" "$device"
  case $? in
    0) return 0 ;;
    77 | 124 | 137) return 77 ;;
  esac
  ! grep -q 'Device not supported' "$out/$1-$(basename "$2").log" || return 77
  return 1
}

hash_of() {
  (cd "$1" && find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum)
}

# by_device OPTION...: all that is for the device was done there
by_device() {
  quantize -q --json --device="$device" "$@" >"$work/said" &&
    grep -q '"device_blocks": *[1-9]' "$work/said" &&
    grep -q '"device_cpu_blocks": *0[^0-9]' "$work/said" || {
    grep '"device' "$work/said"
    return 1
  }
}

# same_bytes MODEL OPTION...: the CPU's files and the device's
same_bytes() {
  from=$1
  shift
  rm -rf "$work/cpu" "$work/gpu"
  quantize -q --device=cpu "$@" "$from" "$work/cpu" &&
    by_device "$@" "$from" "$work/gpu" &&
    [ "$(hash_of "$work/cpu")" = "$(hash_of "$work/gpu")" ]
}

prompts=$model/reference.npz # of real text: random tokens are near-ties
tokens=24
[ "$device" = cuda ] || tokens=2

# same_logits DIR GATE OPTION...: the device against what the CPU stored
same_logits() {
  dir=$1 gate=$2
  shift 2
  run -q --device=cpu "$@" --prompts="$prompts" --max-tokens="$tokens" \
    --save-reference="$work/ref.npz" "$dir" &&
    run --device="$device" "$@" --reference="$work/ref.npz" --gate="$top/tests/$gate" "$dir"
}

# twice the same tokens and logits
same_twice() {
  for turn in 1 2; do
    run -q --device="$device" --prompts="$prompts" --max-tokens="$tokens" \
      --save-reference="$work/$turn.npz" "$1" || return 1
  done
  cmp "$work/1.npz" "$work/2.npz"
}

if [ "$device" = cuda ]; then
  if command -v nvidia-smi >/dev/null; then
    nvidia-smi >"$out/nvidia-smi.log" 2>&1
  fi
  if run --version | grep '^device: none'; then
    exit 77
  fi
fi
run --version >"$out/version.log"
grep -E '^(cuda|device):' "$out/version.log"

all_of "$build"/tests/test_gpu* "$build"/tests/test_device_pass
check make-small "$build/tests/make_checkpoint" --layers 2 --hidden 128 --inter 128 --experts 2 \
  --vocab 64 "$work/small"
check statistics quantize -q --calibration=random:512 --calibration-window=64 \
  --save-stats "$work/stats" "$work/small"
check encode-fast same_bytes "$model" --effort=fast
check encode-normal same_bytes "$model" --effort=normal --w4-end-layer=4
check encode-plain-order same_bytes "$model" --effort=fast --k-order=plain --gain=0
check make-wide "$build/tests/make_checkpoint" --layers 2 --hidden 512 --inter 256 --experts 2 \
  --vocab 64 "$work/wide"
check encode-ranks same_bytes "$work/wide" --effort=fast --tp=2 --w4-end-layer=-1
for effort in fast normal; do
  check "encode-statistics-$effort" same_bytes "$work/small" --stats "$work/stats" \
    --effort=$effort --w4-end-layer=-1
done
check encode-calibrated same_bytes "$work/small" --calibration=random:512 \
  --calibration-window=64 --effort=fast --w4-end-layer=-1
for layers in 1 -1; do
  rm -rf "$work/q$layers"
  check "make-$layers" quantize -q --device=cpu --effort=fast --w4-end-layer="$layers" \
    "$model" "$work/q$layers"
done
check logits-bf16-exact same_logits "$model" gates.json --numerics=exact
check logits-bf16 same_logits "$model" gates_fastdeploy.json
check logits-exact same_logits "$work/q1" gates.json --numerics=exact
check logits-fused same_logits "$work/q1" gates_fastdeploy.json
check logits-wint2-fused same_logits "$work/q-1" gates_fastdeploy.json
check logits-wint2-none same_logits "$work/q-1" gates_fastdeploy.json --wint2-rounding=none
check logits-wint2-unzip same_logits "$work/q-1" gates_fastdeploy.json --wint2-rounding=unzip
check twice same_twice "$work/q1"
if [ "$device" = cuda ] && command -v python3 >/dev/null; then
  check device_run python3 "$top/tests/test_device_run.py" "$build/tools/ccq-run" \
    "$build/tools/ccq-quantize" cuda
  check device_cli python3 "$top/tests/test_device_cli.py" "$build/tools/ccq-quantize" \
    "$build/tests/make_checkpoint" cuda
elif [ "$device" = cuda ]; then
  skipped=$((skipped + 2))
fi

if [ "$device" = cuda ] && [ "$failed" -eq 0 ]; then
  check bench timeout -k 10 580 sh -c '"$1" --json "$3" >"$2"' sh "$build/tests/bench_gpu" \
    "$out/table.txt" "$out/bench.jsonl"
  "$build/tests/make_checkpoint" --size 8G --hidden 2560 --inter 1536 --experts 64 "$work/big" \
    >"$out/make.log" 2>&1
  check quantize-big-cpu quantize --device=cpu --effort=fast "$work/big" "$work/big-cpu"
  check quantize-big by_device --effort=fast "$work/big" "$work/big-gpu"
  tr -d '\n' <"$work/said" >>"$out/bench.jsonl"
  echo >>"$out/bench.jsonl"
  check big-bytes [ "$(hash_of "$work/big-cpu")" = "$(hash_of "$work/big-gpu")" ]
  check run-big run --device=cuda --bench --bench-batch=1,8,32,128 "$work/big-gpu"
  cat "$out/run-big.log" >>"$out/table.txt"
  check run-big-json run --device=cuda --bench --bench-batch=1,8,32,128 --json "$work/big-gpu"
  tr -d '\n' <"$out/run-big-json.log" >>"$out/bench.jsonl"
  cat "$out/table.txt"
fi
if [ "$device" = cuda ] && command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do
    for test in "$build"/tests/test_gpu*; do
      if [ -d "$test" ] || [ ! -x "$test" ]; then
        continue
      elif [ $(($(date +%s) - first)) -gt 1200 ]; then # a lease ends
        echo "$tool-$(basename "$test"): no time left"
        skipped=$((skipped + 1))
      else
        check "$tool-$(basename "$test")" sanitized "$tool" "$test"
      fi
    done
  done
elif [ "$device" = cuda ]; then
  echo "compute-sanitizer is not here"
  skipped=$((skipped + 1))
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
