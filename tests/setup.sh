# shellcheck shell=sh
# What tools/demo.sh and tests/run.sh share: finding the packages that are
# missing, installing them with apt where that is possible, and building.
# Sourced, not run. Needs $ccq_top, the root of the source tree; sets nothing
# but names that start with ccq_.

ccq_say() { printf '%s\n' "$*"; }

# The Debian packages that are missing, of those the build must have.
ccq_missing_required() {
  command -v cc >/dev/null 2>&1 || printf ' gcc'
  # gcc does not depend on the C library's headers, it only recommends them.
  printf '#include <stdio.h>\n' | cc -E - >/dev/null 2>&1 || printf ' libc6-dev'
  command -v meson >/dev/null 2>&1 || printf ' meson'
  command -v ninja >/dev/null 2>&1 || printf ' ninja-build'
  command -v python3 >/dev/null 2>&1 || printf ' python3'
  ccq_pkg_config=pkg-config
  if ! command -v pkg-config >/dev/null 2>&1; then
    ccq_pkg_config=false
    printf ' pkg-config'
  fi
  $ccq_pkg_config --exists zlib || printf ' zlib1g-dev'
  $ccq_pkg_config --exists libcjson || printf ' libcjson-dev'
}

# The same for what ccq can do without: ccq-run --blas and --prompt.
ccq_missing_optional() {
  ccq_pkg_config=pkg-config
  command -v pkg-config >/dev/null 2>&1 || ccq_pkg_config=false
  $ccq_pkg_config --exists openblas || printf ' libopenblas-dev'
  command -v c++ >/dev/null 2>&1 || printf ' g++'
  $ccq_pkg_config --exists sentencepiece || printf ' libsentencepiece-dev'
}

# For the longer checks of tests/run.sh --ci.
ccq_missing_ci() {
  command -v gcc >/dev/null 2>&1 || printf ' gcc'
  command -v clang >/dev/null 2>&1 || printf ' clang'
  command -v mandoc >/dev/null 2>&1 || printf ' mandoc'
  command -v mpirun >/dev/null 2>&1 || printf ' openmpi-bin'
}

ccq_apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300 \
    install --no-install-recommends "$@"
}

# ccq_apt LOG PACKAGE...: installs them as root. A fresh machine has no package
# lists, an old one has stale lists, so a failure is tried again after an update.
ccq_apt() {
  ccq_log=$1
  shift
  ccq_apt_install "$@" >"$ccq_log" 2>&1 && return 0
  ccq_say "  (fetching the package lists first)"
  apt-get -q -o DPkg::Lock::Timeout=300 update >>"$ccq_log" 2>&1 || true
  ccq_apt_install "$@" >>"$ccq_log" 2>&1
}

# ccq_need FUNCTION WORD: what FUNCTION lists is there afterwards, or the answer
# is false and a line says what to install. WORD is "required" or "optional".
ccq_need() {
  ccq_want=$("$1")
  [ -n "$ccq_want" ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    ccq_say "Installing with apt-get:$ccq_want"
    ccq_apt_log=$(mktemp)
    # shellcheck disable=SC2086 # a list of package names
    ccq_apt "$ccq_apt_log" $ccq_want || [ "$2" = optional ] || tail -n 30 "$ccq_apt_log" >&2
    rm -f "$ccq_apt_log"
    ccq_want=$("$1")
    [ -n "$ccq_want" ] || return 0
  fi
  {
    ccq_say "Missing ($2):$ccq_want"
    ccq_say "Install it as root with: apt-get install$ccq_want"
  } >&2
  return 1
}

ccq_need_packages() {
  ccq_need ccq_missing_required required || return 1
  ccq_need ccq_missing_optional optional ||
    ccq_say "Going on without: some options of ccq-run will be absent."
}

# ccq_build DIR [MESON OPTION]...: configures DIR once, builds it, or of it what
# $ccq_targets names. What the tools say goes to DIR/build.log and is shown when
# something fails.
ccq_build() {
  ccq_dir=$1
  ccq_log=$1/build.log
  shift
  mkdir -p "$ccq_dir" || return 1
  # shellcheck disable=SC2154,SC2086 # set by the script that sources this; names of targets
  if [ -f "$ccq_dir/build.ninja" ]; then
    # A package that was missing the last time may be here now.
    meson setup --reconfigure "$@" "$ccq_dir" "$ccq_top" >"$ccq_log" 2>&1
  else
    meson setup "$@" "$ccq_dir" "$ccq_top" >"$ccq_log" 2>&1
  fi && ninja -C "$ccq_dir" ${ccq_targets-} >>"$ccq_log" 2>&1 && return 0
  tail -n 60 "$ccq_log" >&2
  ccq_say "The build failed; the whole log is $ccq_log" >&2
  return 1
}
