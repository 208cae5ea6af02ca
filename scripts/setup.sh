#!/usr/bin/env bash
# Makes .venv with an interpreter that the openfhe wheel really runs on, and installs everything into it.
# PYTHON=/path/to/python names the interpreter instead of searching for one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "setup: $*"; }
fail() { printf '%s\n' "setup: error: $*" >&2; exit 1; }

# Paths that may be an interpreter of version $1. A name on PATH may be a shim that refuses to run: all are tried.
candidates() {
    local version=$1 root
    type -aP "python$version" python3 python || true
    for root in "${PYENV_ROOT:-}" "$(pyenv root 2>/dev/null || true)" "${HOME:-}/.pyenv"; do
        [ -z "$root" ] || printf '%s\n' "$root/versions/$version".*/bin/python
    done
    uv python find --no-python-downloads "$version" 2>/dev/null || true
    root=$(conda info --base 2>/dev/null || true)
    [ -z "$root" ] || printf '%s\n' "$root/bin/python" "$root"/envs/*/bin/python
}

# Whether $1 is a CPython of version $2 that can make environments.
runs() {
    "$1" -c "import sys, venv, ensurepip
sys.exit(sys.implementation.name != 'cpython' or '%d.%d' % sys.version_info[:2] != '$2')" </dev/null >/dev/null 2>&1
}

find_python() {
    local version candidate
    for version in "$@"; do
        if [ -n "${PYTHON:-}" ]; then
            if runs "$PYTHON" "$version"; then printf '%s\n' "$PYTHON"; return 0; fi
            continue
        fi
        while read -r candidate; do
            if runs "$candidate" "$version"; then printf '%s\n' "$candidate"; return 0; fi
        done < <(candidates "$version")
    done
    return 1
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "openfhe has wheels for Linux on x86_64 only, this is $(uname -sm)"
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2) || true
[ -n "$glibc" ] || fail "openfhe's wheels need glibc, which this system does not have: use a Debian or Ubuntu container"
# The wheel for 3.12 needs glibc 2.38; the one for 3.10 runs on older systems too.
versions="3.10"
[ "$(printf '%s\n' 2.38 "$glibc" | sort -V | head -n 1)" != 2.38 ] || versions="3.12 3.10"

# shellcheck disable=SC2086
python=$(find_python $versions) || fail "no CPython ${versions// / or } with venv found${PYTHON:+ at $PYTHON} (glibc $glibc).
Install one, for example with 'apt install python3.10-venv', 'pyenv install 3.10', 'uv python install 3.10' or
'conda create -n mhe python=3.10', or name it: make setup PYTHON=/path/to/python3.10"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

if [ -e .venv ] && ! runs .venv/bin/python "$version"; then rm -rf .venv; fi
say "Python $version ($python), glibc $glibc"
[ -e .venv ] || "$python" -m venv .venv

extras=dev
if ! mpiexec --version </dev/null >/dev/null 2>&1; then extras=dev,mpich; fi
say "installing .[$extras], a few minutes the first time"
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-input -c scripts/constraints.txt -e ".[$extras]"
.venv/bin/python -c "import openfhe" || fail "openfhe is installed and cannot be imported: try make clean, then
make setup PYTHON=/path/to/python3.10"
say "installed after $SECONDS s; checking, and compiling what is compiled once"
.venv/bin/mhe doctor
say "ready after $SECONDS s"
