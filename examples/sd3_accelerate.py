"""Train a text-conditioned SD3 transformer on captioned digits with accelerate and LayerSync.

    python examples/sd3_accelerate.py               # one process, on the CPU, in about a minute
    accelerate launch --num_processes 8 --mixed_precision bf16 examples/sd3_accelerate.py
    python examples/sd3_accelerate.py --resume --steps 300         # go on from the saved state

scikit-learn's 8 x 8 digits, "a handwritten seven"; the words' embeddings are random and frozen, in
the place of T5 and CLIP. LayerSync is set up as in SimpleTuner's configuration files, and sets in
after 100 steps, as if a model were fine-tuned that was trained without: until then, the similarity
falls. An SD3 block returns (text, image): `select=1` aligns the image's tokens.
"""

import argparse
import json
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import SD3Transformer2DModel
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from layersync import LayerSync

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SETTINGS = {
    "layersync_enabled": True,
    "layersync_student_block": 2,
    "layersync_teacher_block": 5,
    "layersync_lambda": 0.5,
}
WIDTH = 32  # of a word's embedding


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layersync", default=json.dumps(SETTINGS), help="JSON, as shown")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps")
    parser.add_argument(
        "--layersync-from", type=int, default=100, help="step; before, measure only"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="of each forward pass")
    parser.add_argument("--accumulate", type=int, default=2, help="forward passes in a step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("sd3-digits"))
    parser.add_argument("--resume", action="store_true", help="from the state in --output")
    return parser.parse_args()


def captioned_digits() -> TensorDataset:
    """Return images (M, 1, 8, 8) in [-1, 1] and their captions' embeddings (M, 3, WIDTH)."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    words = torch.Generator().manual_seed(0)
    embeddings = {
        word: torch.randn(WIDTH, generator=words) for word in ["a", "handwritten", *NAMES]
    }
    captions = [f"a handwritten {NAMES[label]}" for label in digits.target]
    texts = [torch.stack([embeddings[word] for word in caption.split()]) for caption in captions]
    return TensorDataset(images, torch.stack(texts))


def small_sd3() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=1,
        out_channels=1,
        num_layers=6,
        num_attention_heads=4,
        attention_head_dim=16,
        joint_attention_dim=WIDTH,
        caption_projection_dim=64,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=8,
    )


def flow_loss(model: torch.nn.Module, images: Tensor, texts: Tensor) -> Tensor:
    """Flow matching as SD3 counts time: sigma 0 is data, sigma 1 is noise."""
    noise = torch.randn_like(images)
    sigma = torch.randn(len(images), device=images.device).sigmoid()  # logit-normal
    level = sigma.view(-1, 1, 1, 1)
    predicted = model(
        hidden_states=(1 - level) * images + level * noise,
        encoder_hidden_states=texts,
        pooled_projections=texts.mean(dim=1),
        timestep=1000 * sigma,
        return_dict=False,
    )[0]
    return F.mse_loss(predicted.float(), noise - images)


def batches(loader: DataLoader):
    while True:
        yield from loader


def train(args: argparse.Namespace) -> None:
    accelerator = Accelerator(gradient_accumulation_steps=args.accumulate)
    set_seed(args.seed)
    model = small_sd3()
    sync = LayerSync.from_settings(model.transformer_blocks, args.layersync, select=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1, (done + 1) / 20))
    loader = DataLoader(captioned_digits(), args.batch_size, shuffle=True, drop_last=True)
    model, optimizer, warmup, loader = accelerator.prepare(model, optimizer, warmup, loader)
    step = load(accelerator, args.output) if args.resume else 0
    accelerator.print(f"{sync or 'no LayerSync'}, from step {step} to {args.steps}")

    model.train()
    logs: list[dict[str, float]] = []
    for images, texts in batches(loader):
        if step >= args.steps:
            break
        with accelerator.accumulate(model):
            with sync.capture() if sync else nullcontext():
                flow = flow_loss(model, images, texts)
            alignment = sync.loss() if sync else 0  # layersync_lambda is in it
            accelerator.backward(flow + alignment if step >= args.layersync_from else flow)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            warmup.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            step += 1
            logs.append({"flow_loss": flow.item(), **(sync.logs() if sync else {})})
            if step % 25 == 0 or step == args.steps:
                accelerator.print(f"step {step:4d}  {averages(logs)}", flush=True)
                logs.clear()
    save(accelerator, model, step, args.output)


def averages(logs: list[dict[str, float]]) -> str:
    means = {name: sum(log[name] for log in logs) / len(logs) for name in logs[0]}
    return "  ".join(f"{name} {value:.4f}" for name, value in means.items())


def save(accelerator: Accelerator, model: torch.nn.Module, step: int, folder: Path) -> None:
    accelerator.save_state(folder / "state")
    if accelerator.is_main_process:
        (folder / "state" / "step.json").write_text(json.dumps(step))
        accelerator.unwrap_model(model).save_pretrained(folder / "transformer")
        print(f"state and transformer in {folder}")
    accelerator.end_training()


def load(accelerator: Accelerator, folder: Path) -> int:
    accelerator.load_state(folder / "state")
    return json.loads((folder / "state" / "step.json").read_text())


if __name__ == "__main__":
    train(parse_arguments())
