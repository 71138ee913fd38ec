#!/usr/bin/env bash
# Makes .venv and installs Covey into it, or does nothing if that is done. Usage: PYTHON=python3.12 tools/setup.sh
# Any failure ends with one line that says what is wrong; pip's own output is in .venv/install.log.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

fail() {
    echo "error: $1" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "no interpreter '$python'; name one with PYTHON=, for example make test PYTHON=python3.12"
wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ -d .venv ]; then
    .venv/bin/python -c 'import pip' 2>/dev/null || fail ".venv is broken; delete it (rm -rf .venv) and run make again"
    if [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ]; then
        .venv/bin/python -c 'import covey, envs_jax' 2>/dev/null ||
            fail ".venv is broken or belongs to another folder; delete it (rm -rf .venv) and run make again"
        exit 0
    fi
else
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$("$python" -V 2>&1) is too old; Covey needs Python 3.11 or newer: name one with PYTHON="
    "$python" -m venv .venv >/dev/null 2>&1 || {
        rm -rf .venv
        fail "$python cannot make virtual environments; install its venv module (Debian: python3-venv)"
    }
fi
echo "installing into .venv (once; a few minutes) ..."
# PIP_CONSTRAINT reaches the build environment, too.
PIP_CONSTRAINT=$PWD/constraints.txt .venv/bin/python -m pip install --disable-pip-version-check \
    --editable '.[data,dev]' >.venv/install.log 2>&1 ||
    fail "installing failed; is there a network? pip says: $(grep -iE '^(error|.*Error:)' .venv/install.log | tail -n 1 | cut -c 1-200) (all of it: .venv/install.log)"
echo "$wanted" >.venv/installed
