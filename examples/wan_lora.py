"""Fine-tune a Wan video transformer with LoRA, flow matching and LayerSync.

    python examples/wan_lora.py                     # a tiny stand-in, on the CPU, in half a minute
    python examples/wan_lora.py --pretrained Wan-AI/Wan2.1-T2V-1.3B-Diffusers \\
        --data encoded.pt --student 10 --teacher 20 --weight 0.002 --lr 1e-4

The base model stays as it is; adapters learn the velocity on new videos, and LayerSync draws the
student block's tokens to the teacher's. `--data` is a file with a training set as Wan's VAE and
text encoder left it: {"latents": (M, C, F, H, W), "texts": (M, S, E)}. Without it, the videos are
squares that drift up or down, and without `--pretrained` the base is a tiny Wan that first learns
from squares that drift left or right. The adapters are saved as Wan's pipeline loads them:
`pipe.load_lora_weights("wan-lora")`.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.loaders import WanLoraLoaderMixin
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from layersync import LayerSync

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
    parser.add_argument("--weight", type=float, default=0.2, help="lambda; the paper's LoRA: 0.002")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--base-steps", type=int, default=100, help="of the tiny stand-in")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("wan-lora"))
    return parser.parse_args()


def drifting_squares(directions: list[tuple[int, int]], count: int = 256) -> dict[str, Tensor]:
    """Bright squares on a torus, three frames of 8 x 8 latents, and a "text" for each direction."""
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
    """(x_sigma, velocity, timestep) as Wan counts time: sigma 0 is data, sigma 1 is noise."""
    noise = torch.randn_like(latents)
    sigma = torch.rand(len(latents), device=latents.device)
    level = sigma.view(-1, 1, 1, 1, 1)
    return (1 - level) * latents + level * noise, noise - latents, 1000 * sigma


def flow_loss(transformer: WanTransformer3DModel, latents: Tensor, texts: Tensor) -> Tensor:
    x, velocity, timestep = flow_matching_batch(latents.to(DEVICE))
    predicted = transformer(x, timestep, texts.to(DEVICE), return_dict=False)[0]
    return F.mse_loss(predicted, velocity)


def report(step: int, transformer: WanTransformer3DModel, sync: LayerSync, data: dict) -> None:
    """On the same 64 samples, noises and times at every call."""
    with torch.random.fork_rng(), torch.no_grad(), sync.capture():
        torch.manual_seed(1)
        flow = flow_loss(transformer, data["latents"][:64], data["texts"][:64])
        sync.loss()
    (similarity,) = sync.similarity().values()
    print(f"  step {step:4d}  flow loss {flow:.4f}  similarity {similarity:.4f}", flush=True)


def train(
    transformer: WanTransformer3DModel,
    sync: LayerSync,
    data: dict[str, Tensor],
    args: argparse.Namespace,
    steps: int,
    weight: float,
) -> None:
    """AdamW on the parameters that require a gradient; with weight 0, without LayerSync."""
    trained = [p for p in transformer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr)
    print(f"{sum(p.numel() for p in trained)} trained parameters, lambda {weight}")
    report(0, transformer, sync, data)
    for step in range(1, steps + 1):
        chosen = torch.randint(len(data["latents"]), (args.batch_size,))
        with sync.capture():
            loss = flow_loss(transformer, data["latents"][chosen], data["texts"][chosen])
        if weight:
            loss = loss + weight * sync.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 0 or step == steps:
            report(step, transformer, sync, data)


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
    sync = LayerSync(transformer.blocks, pairs=[(args.student, args.teacher)])
    print(sync)
    if not args.pretrained:
        sideways = drifting_squares([(0, 1), (0, -1)])
        train(transformer, sync, sideways, args, args.base_steps, weight=0)

    transformer.requires_grad_(False)
    lora = LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=PROJECTIONS)
    transformer.add_adapter(lora)
    upright = drifting_squares([(1, 0), (-1, 0)])
    data = torch.load(args.data, weights_only=True) if args.data else upright
    train(transformer, sync, data, args, args.steps, args.weight)

    adapters = get_peft_model_state_dict(transformer)
    WanLoraLoaderMixin.save_lora_weights(args.output, transformer_lora_layers=adapters)
    print(f"{len(adapters)} tensors of the adapters in {args.output}")


if __name__ == "__main__":
    main()
