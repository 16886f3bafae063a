#!/usr/bin/env bash
# Makes .venv beside this checkout and installs the project into it.
#
# Usage: deploy/bootstrap.sh serve|test|deploy|bench|export     (PYTHON=/path/to/python3 chooses the interpreter)
#
# Nothing is made before everything that is needed is there. A stamp, written last, makes the next run
# return at once and without the network; an interrupted run leaves no stamp and is done again.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkout=$(pwd -P) # the same by whatever path it was reached
stamp=.venv/bootstrap.stamp

say() { printf 'bootstrap: %s\n' "$*"; }
die() { printf 'bootstrap: %s\n' "$@" >&2; exit 1; }

case ${1-} in
  serve) extras=systemd ;;
  test | deploy) extras=systemd,dev ;;
  bench) extras=systemd,dev,bench ;;
  export) extras=systemd,dev,export ;; # torch: 1 GB, or several where the index has none without CUDA
  *) die "usage: deploy/bootstrap.sh serve|test|deploy|bench|export" ;;
esac

# The interpreter itself, not the shim or the virtual environment that leads to it: ours may be active now.
# Fails for a Python that the inference library has no wheels for.
base_python() {
  "$1" -c '
import os, sys
print(os.path.realpath(sys._base_executable))
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

find_python() {
  local candidate found
  if [ -n "${PYTHON-}" ]; then
    base_python "$PYTHON" || die "PYTHON=$PYTHON is no working Python 3.11 to 3.14"
    return
  fi
  for candidate in python3 python3.11 python3.12 python3.13 python3.14; do
    if found=$(base_python "$candidate"); then
      echo "$found"
      return
    fi
  done
  die "no Python 3.11 to 3.14 found as python3 or python3.11 … python3.14." \
    "On Debian 12 or newer it is the package python3; or say where one is: PYTHON=/path/to/python3 make …"
}

# Changes when the dependencies, the entry points or the version do.
inputs_digest() { cat pyproject.toml appliance/__init__.py | sha256sum | cut -d' ' -f1; }

stamp_text() { printf '%s\n' "$checkout" "$(inputs_digest)" "$1"; }

venv_python() { base_python .venv/bin/python; }

# The interpreter that .venv was made with is kept, whatever python3 means in this shell, unless PYTHON says otherwise.
venv_is_whole() {
  local python
  [ -s "$stamp" ] && [ "$(head -n1 "$stamp")" = "$checkout" ] && python=$(venv_python) &&
    { [ -z "${PYTHON-}" ] || [ "$python" = "$(base_python "$PYTHON")" ]; }
}

# The extras that .venv has, up to date or not.
stamped_extras() { sed -n 3p "$stamp"; }

# Whether the extra $1 is among the extras $2.
is_among() { [[ ,$2, == *",$1,"* ]]; }

is_done() {
  venv_is_whole || return 1
  local extra stamped
  stamped=$(stamped_extras)
  for extra in ${extras//,/ }; do is_among "$extra" "$stamped" || return 1; done
  [ "$(<"$stamp")" = "$(stamp_text "$stamped")" ]
}

# What is installed for another purpose is kept up to date too.
keep_extras() {
  local extra stamped
  stamped=$(stamped_extras)
  for extra in ${stamped//,/ }; do is_among "$extra" "$extras" || extras+=,$extra; done
}

# The Debian packages without which the installation would fail half way.
missing_packages() {
  local python=$1 prefix=
  if [ "$python" = "$(realpath -q /usr/bin/python3)" ]; then
    prefix=python3
  elif [ "${python%/*}" = /usr/bin ]; then
    prefix=${python##*/}
  fi
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    [ -n "$prefix" ] || die "$python has no venv and ensurepip; choose another with PYTHON=/path/to/python3"
    echo "$prefix-venv"
  fi
  # systemd-python has no wheels: it is compiled here.
  if ! "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null; then
    [ -n "$prefix" ] || die "$python has no headers (Python.h); choose another with PYTHON=/path/to/python3"
    echo "$prefix-dev"
  fi
  gcc -E - <<<'#include <stdlib.h>' >/dev/null 2>&1 || echo gcc libc6-dev
  command -v pkg-config >/dev/null || echo pkg-config
  pkg-config --exists libsystemd 2>/dev/null || echo libsystemd-dev
}

missing_host_tools() {
  command -v debootstrap >/dev/null || echo debootstrap debian-archive-keyring
  command -v systemd-nspawn >/dev/null || echo systemd-container
  command -v ip >/dev/null || echo iproute2
  command -v ssh >/dev/null || echo openssh-client
}

# Runs a command: as it is on a terminal, with its progress bar; elsewhere a few plain lines of it,
# and the whole of it when it fails.
shown() {
  if [ -t 1 ]; then
    "$@" </dev/null
    return
  fi
  local log status=0
  log=$(mktemp)
  "$@" </dev/null 2>&1 | tee "$log" | milestones || status=1
  if [ "$status" != 0 ]; then cat "$log" >&2; fi
  rm -f "$log"
  return "$status"
}

# One line for each download of some size, and for what takes long after it.
milestones() {
  sed -un \
    -e 's/^ *Downloading \(.*\/\)\?\([^-/ ]*-[^- ]*\)[^ ]* (\([0-9.]* [MG]B\)).*/bootstrap: downloading \2 (\3)/p' \
    -e 's/^Need to get \(.* [MG]B\).* of archives.*/bootstrap: downloading \1/p' \
    -e 's/^Building wheels\? for .*/bootstrap: building/p' \
    -e 's/^Installing collected packages.*/bootstrap: installing/p'
}

install_packages() {
  local -a install=(apt-get install -y --no-install-recommends "$@")
  command -v apt-get >/dev/null || die "missing, by their Debian names: $*. Install what your system calls them."
  if [ "$(id -u)" != 0 ]; then
    local elevate="sudo sh -c"
    command -v sudo >/dev/null || elevate="su -c"
    say "system packages are missing, nothing was done. Install them, then run make again:" >&2
    printf '\n    %s\n\n' "$elevate 'apt-get update && ${install[*]}'" >&2
    exit 1
  fi
  say "installing system packages: $*"
  export DEBIAN_FRONTEND=noninteractive
  # One broken source needs not stop the others.
  shown apt-get update -q || say "apt-get update failed; going on with the lists that are here"
  # A fresh machine may be updating itself: wait for its lock.
  shown "${install[@]}" -q -o DPkg::Lock::Timeout=300 || die "apt-get failed; nothing else was done"
}

run_pip() {
  # PIP_USER: some have it in their pip settings, and it can't work in a virtual environment.
  shown env PIP_USER=0 .venv/bin/python -m pip install --no-input --disable-pip-version-check "$@" ||
    die "pip failed; put right what it says above, then run make again"
}

# What runs the hosts of tests/deploy. Nobody but root can run them: the suite then says so.
if [ "$1" = deploy ] && [ "$(id -u)" = 0 ]; then
  host_tools=$(missing_host_tools)
  # shellcheck disable=SC2086 # one word for each package
  if [ -n "$host_tools" ]; then install_packages $host_tools; fi
fi

if is_done; then exit 0; fi

# One at a time; the second then finds the work done.
if command -v flock >/dev/null; then
  exec 9<pyproject.toml
  flock -n 9 || { say "waiting for another run"; flock 9; }
  if is_done; then exit 0; fi
fi

if venv_is_whole; then python=$(venv_python); else python=$(find_python); fi
packages=$(missing_packages "$python")
# shellcheck disable=SC2086 # one word for each package
if [ -n "$packages" ]; then install_packages $packages; fi

if venv_is_whole; then
  keep_extras
else
  say "making .venv with $python"
  rm -rf .venv
  "$python" -m venv .venv
fi
rm -f "$stamp"
say "installing the project and what it needs; a few minutes the first time"
run_pip 'pip>=25.1'
run_pip --editable ".[$extras]"
stamp_text "$extras" >"$stamp.new"
mv "$stamp.new" "$stamp"
say "done"
