"""Fine-tune a Wan video transformer with LoRA, flow matching, and LayerSync, CREPA or both.

    python examples/wan_lora.py                     # a tiny stand-in, on the CPU, in half a minute
    python examples/wan_lora.py --crepa             # CREPA as well, on the same captured blocks
    python examples/wan_lora.py --pretrained Wan-AI/Wan2.1-T2V-1.3B-Diffusers \\
        --data encoded.pt --student 9 --teacher 17 --weight 0.002 --lr 1e-4

The last one has the blocks and the lambda of LayerSync's published LoRA on Wan 2.1, whose code
counts the blocks from zero: 8 and 16.

The base model stays as it is; adapters learn the velocity on new videos, and LayerSync draws the
student block's tokens to the teacher's, CREPA its frames to the teacher's frames and their
neighbours. `--data` is a file with a training set as Wan's VAE and text encoder left it:
{"latents": (M, C, F, H, W), "texts": (M, S, E)}. Without it, the videos are squares that drift up
or down, and without `--pretrained` the base is a tiny Wan that first learns from squares that drift
left or right. The adapters are saved as Wan's pipeline loads them:
`pipe.load_lora_weights("wan-lora")`, and CREPA's projector beside them, for going on.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.loaders import WanLoraLoaderMixin
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from layersync import CREPA, LayerSync, Schedule, capture

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
TINY = dict(
    num_attention_heads=4,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    text_dim=32,
    freq_dim=32,
    ffn_dim=128,
    num_layers=8,
    rope_max_seq_len=32,
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretrained", help="a Wan model on the hub or in a folder")
    parser.add_argument("--data", type=Path, help="encoded videos and texts, see above")
    parser.add_argument("--student", type=int, default=3, help="block number, counted from 1")
    parser.add_argument("--teacher", type=int, default=6, help="a deeper one")
    parser.add_argument("--weight", type=float, default=0.2, help="lambda of LayerSync, 0 for none")
    parser.add_argument("--crepa", action="store_true", help="CREPA on the same pair")
    parser.add_argument("--crepa-weight", type=float, default=0.5, help="lambda of CREPA")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--base-steps", type=int, default=100, help="of the tiny stand-in")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("wan-lora"))
    return parser.parse_args()


def drifting_squares(directions: list[tuple[int, int]], count: int = 256) -> dict[str, Tensor]:
    """Draw bright squares on a torus, 3 frames of 8 x 8 latents, and a "text" per direction."""
    words = torch.randn(len(directions), 5, 32)  # what a frozen text encoder would return
    labels = torch.randint(len(directions), (count,))
    square = -torch.ones(4, 8, 8)
    square[:, :3, :3] = 1
    videos = []
    for label, start in zip(labels, torch.randint(8, (count, 2)), strict=True):
        places = [start + frame * torch.tensor(directions[label]) for frame in range(3)]
        videos.append(torch.stack([square.roll(place.tolist(), (1, 2)) for place in places], 1))
    return {"latents": torch.stack(videos), "texts": words[labels]}


def flow_matching_batch(latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x_sigma, velocity, timestep) in Wan's time: sigma 0 is data, sigma 1 is noise."""
    noise = torch.randn_like(latents)
    sigma = torch.rand(len(latents), device=latents.device)
    level = sigma.view(-1, 1, 1, 1, 1)
    return (1 - level) * latents + level * noise, noise - latents, 1000 * sigma


def flow_loss(transformer: WanTransformer3DModel, latents: Tensor, texts: Tensor) -> Tensor:
    x, velocity, timestep = flow_matching_batch(latents.to(DEVICE))
    predicted = transformer(x, timestep, texts.to(DEVICE), return_dict=False)[0]
    return F.mse_loss(predicted, velocity)


def report(step: int, transformer: WanTransformer3DModel, used: list, data: dict) -> None:
    """Print loss and similarities, of the same 64 samples, noises and times at every call."""
    with torch.random.fork_rng(), torch.no_grad(), capture(*used):
        torch.manual_seed(1)
        flow = flow_loss(transformer, data["latents"][:64], data["texts"][:64])
        for regularizer in used:
            regularizer.loss()
    line = f"  step {step:4d}  flow loss {flow:.4f}"
    for regularizer in used:
        (similarity,) = regularizer.similarity().values()
        name = "similarity" if isinstance(regularizer, LayerSync) else "CREPA"
        line += f"  {name} {similarity:.4f}"
    print(line, flush=True)


def train(
    transformer: WanTransformer3DModel,
    sync: LayerSync,
    data: dict[str, Tensor],
    args: argparse.Namespace,
    steps: int,
    weight: float,
    crepa: CREPA | None = None,
) -> None:
    """Train by AdamW the parameters that require a gradient; with weight 0, without LayerSync."""
    trained = [p for p in transformer.parameters() if p.requires_grad]
    trained += [] if crepa is None else crepa.parameters()
    used = [sync] if crepa is None else [sync, crepa]
    optimizer = torch.optim.AdamW(trained, lr=args.lr)
    print(f"{sum(p.numel() for p in trained)} trained parameters, lambda {weight}")
    report(0, transformer, used, data)
    for step in range(1, steps + 1):
        chosen = torch.randint(len(data["latents"]), (args.batch_size,))
        with capture(*used):
            loss = flow_loss(transformer, data["latents"][chosen], data["texts"][chosen])
        if weight:
            loss = loss + weight * sync.loss()
        if crepa is not None:
            loss = loss + crepa.loss()  # its lambda is in it
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 0 or step == steps:
            report(step, transformer, used, data)


def add_adapters(transformer: WanTransformer3DModel, rank: int) -> None:
    """Freeze the base model and add LoRA to its projections."""
    transformer.requires_grad_(False)
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=PROJECTIONS))


def make_crepa(
    transformer: WanTransformer3DModel, pair: tuple[int, int], latents: Tensor, weight: float
) -> CREPA:
    """Make CREPA for latents (M, C, F, H, W): Wan's blocks return frames and tokens in a row."""
    config = transformer.config
    return CREPA.from_names(
        transformer,
        "blocks.*",
        pair,
        width=config.num_attention_heads * config.attention_head_dim,
        frames=latents.shape[2] // config.patch_size[0],
        schedule=Schedule(weight),
    )


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(0)
    if args.pretrained:
        transformer = WanTransformer3DModel.from_pretrained(
            args.pretrained, subfolder="transformer"
        )
    else:
        transformer = WanTransformer3DModel(**TINY)
    transformer.to(DEVICE)
    pair = args.student, args.teacher
    sync = LayerSync.from_names(transformer, "blocks.*", pairs=[pair])
    print(sync)
    if not args.pretrained:
        sideways = drifting_squares([(0, 1), (0, -1)])
        train(transformer, sync, sideways, args, args.base_steps, weight=0)

    add_adapters(transformer, args.rank)
    upright = drifting_squares([(1, 0), (-1, 0)])
    data = torch.load(args.data, weights_only=True) if args.data else upright
    crepa = None
    if args.crepa:
        crepa = make_crepa(transformer, pair, data["latents"], args.crepa_weight)
        print(crepa)
    train(transformer, sync, data, args, args.steps, args.weight, crepa)

    adapters = get_peft_model_state_dict(transformer)
    WanLoraLoaderMixin.save_lora_weights(args.output, transformer_lora_layers=adapters)
    if crepa is not None:
        torch.save(crepa.state_dict(), args.output / "crepa.pt")
    print(f"{len(adapters)} tensors of the adapters in {args.output}")


if __name__ == "__main__":
    main()
