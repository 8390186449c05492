#!/usr/bin/env bash
# Correctness and speed on one CUDA GPU, into one JSON file: in twice nine minutes, --only for each half.
#
#     lab/bench/gpu/run.sh [RESULT.json] [options of lab.bench.gpu.measure]
#
# Needs a Python with torch; Ultralytics and timm add whole models. Each section runs in a process of its own: one that
# fails is recorded with its error text and the others still run. Exit code 0 when all passed, 1 when one failed.
set -uo pipefail
cd "$(dirname "$0")/../../.." || exit 2
result=lab/results/gpu.json
if [[ $# -gt 0 && $1 != -* ]]; then
    result=$1
    shift
fi
export PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m lab.bench.gpu.measure --out "$result" "$@"
