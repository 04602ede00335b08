#!/bin/sh
# Tries and measures segtl on a machine with a GPU, from a checkout and without installing it:
#
#   sh tools/gpu_kit.sh test [DEVICE]     the tests of the GPU; a few minutes
#   sh tools/gpu_kit.sh bench [DEVICE]    bench/gpu.py, to gpu.json; a few minutes
#
# DEVICE is cuda:0 by default; with cpu the kit itself is tried. Where the machine reaches no package index,
# `python tools/gpu_wheels.py` downloads on another one what it lacks; WHEELS names the folder they were carried in.
# With nnU-Net in an environment of its own, `python bench/curve.py --nnunet VENV --only hippocampus-120 --minutes 4`
# compares both on the GPU.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
DEVICE=${2:-cuda:0}
if [ -n "${WHEELS:-}" ]; then
    SITE=$(mktemp -d)
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$SITE" "$WHEELS"/*.whl
    export PYTHONPATH="$SITE${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

case ${1:-} in
test) exec "$PYTHON" -m pytest -m gpu --device "$DEVICE" tests/gpu ;;
bench) exec "$PYTHON" bench/gpu.py --device "$DEVICE" --out gpu.json --work "${TMPDIR:-/tmp}/segtl_gpu" ;;
*)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
