#!/usr/bin/env bash
# Everything there is to know about this machine's NVIDIA GPU, in one command:
#
#     benchmarks/gpu.sh [options of benchmarks/gpu.py]
#
# Makes an environment of its own in .venv-gpu, runs the tests that need a GPU, measures, writes
# benchmarks/results/gpu-DATE.json and the GPU's table in docs/performance.md. Needs a driver for
# CUDA 13 (or, with ORT="onnxruntime-gpu<1.27", CUDA 12), Python 3.11 or later, and 12 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/.."
nvidia-smi
python3 -m venv .venv-gpu
python=.venv-gpu/bin/python
$python -m pip install --quiet --upgrade pip
$python -m pip install -e '.[gpu,timm]' "${ORT:-onnxruntime-gpu}" pytest
# TensorRT is measured where it can be had; ONNX Runtime says which version it wants.
if $python -m pip install 'tensorrt-cu13==10.*'; then
    libraries=$($python -c 'import tensorrt_libs; print(tensorrt_libs.__path__[0])')
    export LD_LIBRARY_PATH="$libraries:${LD_LIBRARY_PATH:-}"
else
    echo "TensorRT can't be installed: its cases will be refused." >&2
fi
.venv-gpu/bin/deepinside providers
$python -m pytest -m gpu -ra tests
$python -W ignore benchmarks/gpu.py "$@"
$python benchmarks/gpu_page.py "$(ls -t benchmarks/results/gpu-*.json | head -n 1)"
