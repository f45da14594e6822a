#!/bin/sh
# Installs what is missing (as root, with apt), builds, and runs the tests.
#
#   sh tests/run.sh        release build in build/, the default suites
#   sh tests/run.sh --ci   what they leave:
#
#     gcc        everything compiles with -O2 and -Werror; nothing runs: the default suites do
#     clang      everything compiles with -Werror; the programs in C run, where a compiler could
#                matter: kernels, formats, library. Not the scripts that drive the tools (suite
#                outside): their bytes come from the next stage, their words from no compiler
#     bytes      ccq-quantize of gcc and clang, -O0 to -O3, writes the same
#     sanitize   ASan and UBSan over all of it but the two longest (suite once: the accuracy of a
#                model, twice over the same code) and the replay of the fuzzers (see below)
#     thread     TSan over what has threads: ring, pool, pipeline, resume, calibration, ccq-run
#     fuzz       100,000 mutations for every fuzz target under ASan and UBSan, and the branches
#                that they reach
#     cuda       everything compiles and links with nvcc (from PyPI, where there is none), with
#                code for each architecture; the instructions of the kernels' loops are counted;
#                tools start without a driver; tests/gpu.sh passes on the host device, from a
#                folder that was made to be carried elsewhere
#     man        the man pages
#
# All of it is made to end within 30 minutes on two cores, the default suites within 5; every
# stage says how long it took. nvcc takes minutes, and sanitizers and other compilers see nothing
# of its work: the GPU has a stage of its own, and everything else builds without.
#
# The last line is "N passed, N failed, N skipped". The status is 0 when
# something ran and nothing failed.
# shellcheck disable=SC2034 # setup.sh reads ccq_targets
set -u

ccq_top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
# shellcheck source=tests/setup.sh
. "$ccq_top/tests/setup.sh"

ci=0
case ${1-} in
  '') ;;
  --ci) ci=1 ;;
  *)
    echo "usage: sh tests/run.sh [--ci]" >&2
    exit 64
    ;;
esac
cd "$ccq_top" || exit 1

# nvcc 13.0 with the headers that the kernels want, as PyPI has them.
ccq_nvcc='nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.* nvidia-cublas==13.0.*'
ccq_disassembler='nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm'
passed=0
failed=0
skipped=0

finish() {
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
  exit
}

fail() {
  echo "FAILED: $1"
  failed=$((failed + 1))
}

# Adds the results of a meson test run: one JSON object a line.
count() {
  # shellcheck disable=SC2046 # three numbers
  set -- $(python3 - "$1" <<'PYTHON'
import json, sys
total = {"passed": 0, "failed": 0, "skipped": 0}
good = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}
try:
    for line in open(sys.argv[1], encoding="utf-8", errors="replace"):
        total[good.get(json.loads(line)["result"], "failed")] += 1
except (OSError, ValueError, KeyError):
    total["failed"] += 1
print(*total.values())
PYTHON
  )
  passed=$((passed + ${1:-0}))
  failed=$((failed + ${2:-1}))
  skipped=$((skipped + ${3:-0}))
}

# run_tests DIR [MESON TEST OPTION]...
run_tests() {
  dir=$1
  shift
  rm -f "$dir/meson-logs/testlog.json"
  meson test -C "$dir" --no-rebuild --print-errorlogs --no-suite slow "$@"
  count "$dir/meson-logs/testlog.json"
}

began=$(date +%s)

stage() {
  echo
  echo "== $*"
}

# How long it was since the last one.
took() {
  now=$(date +%s)
  echo "-- $1: $((now - began)) s"
  began=$now
}

# build_with COMPILER DIR [MESON OPTION]...: a build of its own counts as one check.
# ccq_targets names what is built, when not everything.
build_with() {
  compiler=$1
  dir=$2
  shift 2
  stage "$compiler $*"
  cxx=g++
  [ "$compiler" = gcc ] || cxx=clang++
  if (export CC="$compiler" CXX="$cxx" && ccq_build "$dir" -Dcuda=disabled "$@"); then
    passed=$((passed + 1))
  else
    fail "$dir: build"
    return 1
  fi
}

# check NAME COMMAND...: one more check.
check() {
  name=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    fail "$name"
  fi
}

# Two compilers, every level of optimization: the quantizer's bytes are the same.
same_bytes() {
  ccq_targets=tools/ccq-quantize
  for compiler in gcc clang; do
    build_with "$compiler" "build-$compiler-O0" -Doptimization=0 -Dopenblas=disabled \
      -Dsentencepiece=disabled || return
  done
  ccq_targets=
  stage "the same bytes from every build"
  check tests/same_bytes.py python3 tests/same_bytes.py tests/data/ernie-micro \
    build/tools/ccq-quantize build-gcc/tools/ccq-quantize build-clang/tools/ccq-quantize \
    build-gcc-O0/tools/ccq-quantize build-clang-O0/tools/ccq-quantize
}

sanitize() {
  export ASAN_OPTIONS=halt_on_error=1:detect_leaks=1:strict_string_checks=1
  export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
  build_with gcc build-sanitize -Db_sanitize=address,undefined -Db_lundef=false \
    -Dbuildtype=debugoptimized &&
    run_tests build-sanitize --timeout-multiplier 6 --no-suite once --no-suite fuzz
  unset ASAN_OPTIONS UBSAN_OPTIONS
}

# Of each program what has several threads at work on one thing, and of those the small ones.
threads() {
  export TSAN_OPTIONS=halt_on_error=1
  ccq_targets='tools/ccq-quantize tools/ccq-inspect tools/ccq-run tests/make_checkpoint
    tests/quantize_faults tests/test_ring tests/test_quantize'
  build_with gcc build-thread -Db_sanitize=thread -Db_lundef=false -Dbuildtype=debugoptimized \
    -Dopenblas=disabled -Dsentencepiece=disabled && {
    run_tests build-thread --timeout-multiplier 10 ring quantize
    part pipeline Bytes.test_threads_and_instruction_sets Bytes.test_blocks_leave_no_trace Failures
    part resume Kills.test_random Kills.test_every_call Failing.test_threads World.test_at_once
    part calibration_cli Job.test_resume
    part run_cli Bits.test_threads_batch_chunk_isa
    part layered_cli Figures.test_perplexity
  }
  ccq_targets=
  unset TSAN_OPTIONS
}

# part TEST CASE...: some cases of one of build-thread's tests
part() {
  name=$1
  shift
  run_tests build-thread --timeout-multiplier 10 "$name" --test-args "$*"
}

# The GPU's kernels: they compile for every architecture, their loops are as short as they
# were, and programs with them start without a driver. What is not here comes from PyPI.
cuda() {
  stage "CUDA"
  # shellcheck disable=SC2086 # a list of packages
  if ! command -v nvcc >/dev/null 2>&1 || ! command -v cuobjdump >/dev/null 2>&1; then
    wanted=$ccq_disassembler
    command -v nvcc >/dev/null 2>&1 || wanted="$wanted $ccq_nvcc"
    if python3 -m venv build-nvcc && build-nvcc/bin/pip install -q $wanted; then
      CCQ_CUDA_TOOLS=$(echo "$ccq_top"/build-nvcc/lib/python3*/site-packages/nvidia/cu13)
      export CCQ_CUDA_TOOLS
      command -v nvcc >/dev/null 2>&1 || PATH=$CCQ_CUDA_TOOLS/bin:$PATH
    fi
  fi
  if ! command -v nvcc >/dev/null 2>&1; then
    echo "no nvcc, and none from PyPI: skipped"
    skipped=$((skipped + 1))
    return
  fi
  if ccq_build build-cuda -Dcuda=enabled -Dopenblas=disabled -Dsentencepiece=disabled; then
    check tests/check_cuda.py python3 tests/check_cuda.py build-cuda
    run_tests build-cuda gpu_sass gpu_registers
    for tool in ccq-run ccq-quantize; do
      check "$tool starts without a driver" without_driver "build-cuda/tools/$tool"
    done
    rm -rf build-cuda/folder build-cuda/results
    check tests/gpu_folder.sh sh tests/gpu_folder.sh build-cuda build-cuda/folder
    check "tests/gpu.sh on the host device" \
      env -i PATH="$PATH" sh tests/gpu.sh build-cuda/folder build-cuda/results host
    rm -rf build-cuda/folder
  else
    fail "build-cuda: build"
  fi
}

# without_driver TOOL: it says that CUDA is in it, and that there is no device or which; where
# there is none, asking for it ends with 69 and why.
without_driver() {
  said=$("$1" --version) || return
  echo "$said" | grep '^cuda: built' || return
  echo "$said" | grep '^device: none' || return 0 # there is one
  "$1" --device cuda tests/data/ernie-micro build-cuda/none >build-cuda/said 2>&1
  [ $? -eq 69 ] && grep -i 'no CUDA device' build-cuda/said
}

man_pages() {
  stage "man pages (mandoc -T lint)"
  for page in docs/*.1; do
    check "$page" mandoc -T lint -W warning "$page"
  done
}

ccq_need_packages || {
  fail "packages"
  finish
}
[ "$ci" = 0 ] || ccq_need ccq_missing_ci required || {
  fail "packages for --ci"
  finish
}

echo "== release build in build/"
if ccq_build build -Dcuda=disabled; then
  [ "$ci" = 1 ] || run_tests build
else
  fail "build"
  finish
fi

took "release build and its tests"

if [ "$ci" = 1 ]; then
  build_with gcc build-gcc -Dwerror=true -Doptimization=2
  took gcc
  build_with clang build-clang -Dwerror=true &&
    run_tests build-clang --no-suite once --no-suite outside
  took clang
  same_bytes
  took bytes
  sanitize
  took sanitize
  threads
  took thread
  stage "fuzzing (tests/fuzz)"
  check tests/fuzz/coverage.py python3 tests/fuzz/coverage.py build-fuzz 100000
  took fuzz
  cuda
  took cuda
  man_pages
fi
echo
finish
