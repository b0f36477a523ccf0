#!/bin/sh
# Everything that a GPU is needed for, in under ten minutes: the tests, then the two tables, into one folder.
#
#   sh benchmarks/gpu_session.sh [FOLDER]      (default: gpu-session; PYTHON=... chooses the interpreter, else .venv)
#
# Each part has a time of its own after which it is ended, and the next begins: what has been measured until then stays.
set -u
cd "$(dirname "$0")/.."
out=${1:-gpu-session}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"

"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "gpu_session.sh: torch sees no GPU here; there is nothing to measure" >&2
    exit 1
}

failed=0
part() { # NAME SECONDS COMMAND...
    name=$1 limit=$2
    shift 2
    echo "== $name (at most $limit s)"
    began=$(date +%s)
    timeout -k 5 "$limit" "$@" > "$out/$name.txt" 2>&1
    status=$?
    echo "   $(($(date +%s) - began)) s, exit status $status: $out/$name.txt"
    [ "$status" -eq 0 ] || failed=1
}

nvidia-smi > "$out/machine.txt" 2>&1
part tests 150 "$python" -m pytest -q -n 0 -o addopts="" -m gpu tests/engine tests/quant
part gpu 240 "$python" benchmarks/gpu.py --int4
part quant_gpu 120 "$python" benchmarks/quant_gpu.py
part startup 60 "$python" benchmarks/startup.py 1
tail -n 20 "$out"/*.txt
exit "$failed"
