#!/usr/bin/env bash
# How the files beside this one were made, with the code of their time:
#
#     bash tests/golden/made_before/make.sh /tmp/made_before
#
# They stay as they are: tests/test_made_before.py shows that the present code still reads them.
# Files of a later format get a folder of their own.
set -euo pipefail
root=$PWD
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= PYTHONPATH=$root
mkdir -p "$1" && cd "$1"
digits="--model SiT-Ti/2 --dataset-name digits --image-size 8 --num-classes 10 --vae none
  --global-batch-size 8 --log-every 1 --sample-every 0 --num-workers 0"

# A checkpoint of 10 MB that compresses to 0.2 MB. That of step 1 gets weights with few different
# values and a last layer of zeros; in step 2 only that layer has gradients, and so Adam moments.
train="train.py $digits --lr 1e-2 --ema-decay 0.5 --loss-type layer_sync --encoder-depth 2
  --gt-encoder-depth 5 --reg-weight 0.3 --reg-similarity-threshold 0 --results-dir ."
"$python" "$root/"$train --max-steps 1 --run-name start
"$python" - <<'PYTHON'
import torch

torch.manual_seed(0)
path = "start/checkpoints/0000001.pt"
state = torch.load(path, weights_only=True)
for name, value in state["model"].items():
    if name.startswith("final_layer.linear"):
        value.zero_()
    elif "adaLN" in name:
        value.normal_(0, 0.05)
    if name != "pos_embed":
        steps = 64 if value.std() < 0.03 else 16
        value.mul_(steps).round_().div_(steps)
    state["ema"][name] = value.clone()
for moments in state["opt"]["state"].values():
    moments["exp_avg"].zero_()
    moments["exp_avg_sq"].zero_()
torch.save(state, path)
PYTHON
"$python" "$root/"$train --resume start/checkpoints/0000001.pt --max-steps 2 --run-name run
xz -9e --stdout run/checkpoints/0000002.pt > checkpoint.pt.xz
"$python" "$root/sample_ddp.py" ODE --ckpt run/checkpoints/0000002.pt --sampling-method heun2 \
  --num-sampling-steps 5 --num-fid-samples 32 --per-proc-batch-size 16 --out samples.npz
"$python" "$root/"$train --resume latest --max-steps 4 --run-name run
tail -n 2 run/metrics.jsonl > resumed.jsonl
"$python" -m evaluation samples.npz --ref digits

# A latent cache of eight random images, and the first steps from it.
"$python" - <<'PYTHON'
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

random = np.random.default_rng(0)
for i in range(8):
    path = Path("images") / f"class{i % 2}" / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
torch.manual_seed(0)
AutoencoderKL(
    block_out_channels=(4, 4),
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    latent_channels=4,
    norm_num_groups=2,
).save_pretrained("vae")
PYTHON
"$python" "$root/scripts/cache_latents.py" --data-path images --image-size 16 --vae vae \
  --out latents --shard-size 5 --num-workers 0
"$python" "$root/train.py" --model SiT-Ti/2 --data-path latents --image-size 16 --num-classes 2 \
  --vae vae --global-batch-size 4 --log-every 1 --sample-every 0 --num-workers 0 --max-steps 2 \
  --loss-type vanilla --results-dir . --run-name from_latents
cp from_latents/metrics.jsonl from_latents.jsonl

# A sweep of one pair. Checkpoints are not needed any more once their samples are evaluated.
"$python" "$root/scripts/sweep_layer_pairs.py" run --folder sweep --pairs "[(2,5)]" --seeds 0 \
  --lambdas 0.3 --base "train.py $(echo $digits) --max-steps 4" \
  --sample "sample_ddp.py ODE --sampling-method euler --num-sampling-steps 3 --num-fid-samples 96" \
  --evaluate "python -m evaluation --ref digits"
rm -r sweep/cells/*/train/{checkpoints,layersync} sweep/cells/*/{cell.log,cell.lock,*.png} sweep/sweep.lock

# A line of results.csv, by an Inception with random weights.
"$python" -c "
from scripts.benchmarks.evaluation_stages import save_random_inception
save_random_inception('inception.pth')"
"$python" -m evaluation images --ref images --inception-weights inception.pth --results results.csv
rm -r start run from_latents images images.metrics.json inception.pth samples.png
