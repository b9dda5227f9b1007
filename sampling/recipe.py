"""The recipe in a set of samples: everything that determines them, and the name made of it."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import torch

import layersync
from data.latents import weights_fingerprint
from models.trained import Trained
from sampling.sample_config import ODE, SDE, solver_settings


def make_recipe(
    c: ODE | SDE,
    trained: Trained,
    settings: dict,
    codec,
    interval: list[float],
    device: torch.device,
) -> dict:
    """Everything that determines the samples, and nothing else: no times, no processes.

    Args:
        settings: those in force, `image_size` among them.
        interval: [t_0, t_1], between which the solver's grid lies.
    """
    return {
        "weights_sha256": trained.weights_sha256,
        "weights": c.weights,
        "step": trained.step,
        **settings,
        "vae": codec.name,
        "vae_fingerprint": weights_fingerprint(codec.vae) if hasattr(codec, "vae") else None,
        "solver": solver_settings(c),
        "solved_interval": interval,
        "cfg_scale": c.cfg_scale,
        "cfg_channels": c.cfg_channels,
        "guidance_interval": c.guidance_interval,
        "seed": c.global_seed,
        "label_sampling": c.label_sampling,
        "num_samples": c.num_fid_samples,
        "batch_size": c.per_proc_batch_size,
        "dtype": describe_dtype(c, device),
        "compiled": c.compile,
        "device": device.type,
        "versions": {"layersync": layersync.__version__, "torch": torch.__version__}
        | {name: version(name) for name in ("numpy", "torchdiffeq", "diffusers")},
    }


def describe_dtype(c: ODE | SDE, device: torch.device) -> str:
    """The arithmetic that the network is evaluated in."""
    if c.bf16:
        return "bfloat16 (autocast)"
    return "float32 (TF32 products)" if c.tf32 and device.type == "cuda" else "float32"


def output_path(c: ODE | SDE, recipe: dict) -> Path:
    """The .npz to write: --out, or a name in --sample-dir made of the recipe."""
    if c.out:
        return Path(c.out)
    step = "official" if recipe["step"] is None else f"{recipe['step']:07d}"
    name = f"{recipe['model'].replace('/', '-')}-{step}"
    name += f"-{type(c).__name__}-{c.sampling_method}-{c.num_sampling_steps}"
    name += f"-cfg{c.cfg_scale:g}-seed{c.global_seed}"
    # what else makes the samples, and above all which run the weights are of
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return Path(c.sample_dir) / f"{name}-{digest[:8]}.npz"
