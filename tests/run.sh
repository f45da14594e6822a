#!/bin/sh
# Installs what is missing (as root, with apt), builds, and runs the tests.
#
#   sh tests/run.sh        release build in build/, the default suites
#   sh tests/run.sh --ci   what they leave: gcc and clang with -Werror, the same bytes from
#                          builds of both with and without optimization, ASan
#                          and UBSan, TSan over what has threads, 100,000
#                          mutations for every fuzz target, the man pages
#
# The last line is "N passed, N failed, N skipped". The status is 0 when
# something ran and nothing failed.
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

# build_with COMPILER DIR [MESON OPTION]...: a build of its own counts as one check.
build_with() {
  compiler=$1
  dir=$2
  shift 2
  echo
  echo "== $compiler $*"
  cxx=g++
  [ "$compiler" = gcc ] || cxx=clang++
  if (export CC="$compiler" CXX="$cxx" && ccq_build "$dir" "$@"); then
    passed=$((passed + 1))
  else
    fail "$dir: build"
    return 1
  fi
}

# Two compilers, with and without optimization: the quantizer's bytes are the same.
same_bytes() {
  for compiler in gcc clang; do
    build_with "$compiler" "build-$compiler-O0" -Doptimization=0 -Dopenblas=disabled \
      -Dsentencepiece=disabled || return
  done
  echo
  echo "== the same bytes from every build"
  if python3 tests/same_bytes.py tests/data/ernie-micro build/tools/ccq-quantize \
    build-clang/tools/ccq-quantize build-gcc-O0/tools/ccq-quantize \
    build-clang-O0/tools/ccq-quantize; then
    passed=$((passed + 1))
  else
    fail "tests/same_bytes.py"
  fi
}

# 100,000 mutations a target under the sanitizers, and the branches they reach.
fuzz() {
  echo
  echo "== fuzzing (tests/fuzz)"
  if python3 tests/fuzz/coverage.py build-fuzz 100000; then
    passed=$((passed + 1))
  else
    fail "tests/fuzz/coverage.py"
  fi
}

man_pages() {
  echo
  echo "== man pages (mandoc -T lint)"
  for page in docs/*.1; do
    if mandoc -T lint -W warning "$page"; then
      passed=$((passed + 1))
    else
      fail "$page"
    fi
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
if ccq_build build; then
  [ "$ci" = 1 ] || run_tests build
else
  fail "build"
  finish
fi

if [ "$ci" = 1 ]; then
  build_with gcc build-gcc -Dwerror=true
  build_with clang build-clang -Dwerror=true && run_tests build-clang --no-suite once
  same_bytes
  export ASAN_OPTIONS=halt_on_error=1:detect_leaks=1:strict_string_checks=1
  export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
  build_with gcc build-sanitize -Db_sanitize=address,undefined -Db_lundef=false \
    -Dbuildtype=debugoptimized && run_tests build-sanitize --timeout-multiplier 6 --no-suite once
  unset ASAN_OPTIONS UBSAN_OPTIONS
  export TSAN_OPTIONS=halt_on_error=1
  build_with gcc build-thread -Db_sanitize=thread -Db_lundef=false \
    -Dbuildtype=debugoptimized -Dopenblas=disabled -Dsentencepiece=disabled &&
    run_tests build-thread --timeout-multiplier 10 ring quantize pipeline run
  unset TSAN_OPTIONS
  fuzz
  man_pages
fi
echo
finish
