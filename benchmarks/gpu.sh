#!/usr/bin/env bash
# Everything there is to run on a GPU, in one command of under nine minutes that needs no network.
#
#   bash benchmarks/gpu.sh                        # log and records in benchmarks/out (or in $OUT)
#   bash benchmarks/gpu.sh --wheels wheels        # what this Python lacks comes from a folder that `make wheels` filled
#   bash benchmarks/gpu.sh --quick --device cpu   # the same at tiny size, as the tests run it: its numbers say nothing
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
