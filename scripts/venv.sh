#!/bin/sh
# Create a virtual environment at $1 with a Python this package supports. Nothing is done when a working one is there.
# PYTHON=/path/to/python chooses the interpreter; otherwise the first suitable one on the PATH is taken.
set -eu

folder=$1
oldest='(3, 10)'
newest='(3, 13)'

supported() {
    "$1" -c "import sys; sys.exit(not $oldest <= sys.version_info[:2] <= $newest)" >/dev/null 2>&1
}

complete() {
    "$1" -c 'import venv, ensurepip' >/dev/null 2>&1
}

fail() {
    printf 'make: %s\n' "$@" >&2
    exit 1
}

if supported "$folder/bin/python" && "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi

incomplete=
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
    supported "$candidate" || continue
    if complete "$candidate"; then
        printf 'make: creating %s with %s (%s)\n' "$folder" "$candidate" "$("$candidate" -V 2>&1)" >&2
        exec "$candidate" -m venv --clear "$folder"
    fi
    incomplete=${incomplete:-$candidate}
done

if [ -n "$incomplete" ]; then
    fail "$incomplete ($("$incomplete" -V 2>&1)) cannot create virtual environments: its module venv or ensurepip is missing." \
        "On Debian and Ubuntu install them with: apt-get install python3-venv" \
        "or name another Python: make PYTHON=/path/to/python3 ..."
fi
if [ -n "${PYTHON:-}" ]; then
    fail "PYTHON=$PYTHON is not a Python 3.10, 3.11, 3.12 or 3.13 that runs: $("$PYTHON" -V 2>&1 || true)" \
        "Name one that is: make PYTHON=/path/to/python3 ..."
fi
fail "no Python 3.10, 3.11, 3.12 or 3.13 was found on the PATH; python3 is: $(python3 -V 2>&1 || true)" \
    "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python3 ..."
