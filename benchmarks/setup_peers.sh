#!/usr/bin/env bash
# Makes the environment of the peers that `benchmarks.step` times: PyTorch, and FBGEMM's CPU tables.
#     benchmarks/setup_peers.sh FOLDER
# facebookresearch/dlrm itself is a checkout that --dlrm_dir names.
set -euo pipefail
[ $# -eq 1 ] || { echo "Give one argument, the folder of the environment." >&2; exit 2; }
python3 -m venv "$1"
"$1/bin/python" -m pip install --quiet torch==2.13.0 numpy scikit-learn
# Without its dependencies: it would replace PyTorch by one for GPUs.
"$1/bin/python" -m pip install --quiet --no-deps fbgemm-gpu-cpu==1.8.0
"$1/bin/python" -c "import torch, fbgemm_gpu; print('PyTorch', torch.__version__, 'with FBGEMM')"
