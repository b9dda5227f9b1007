"""The recipe in a set of samples: everything that determines them, and the name made of it."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import torch

import layersync
from data.cached_codec import weights_fingerprint
from models.published import SIT_NAME
from sampling.images import ImageMaker
from sampling.network import describe_dtype
from sampling.sample_config import ODE, SDE
from sampling.solver_config import solver_settings


def make_recipe(c: ODE | SDE, maker: ImageMaker) -> dict:
    """Return everything that determines the samples, and nothing else: no times, no processes."""
    drawn = {
        "seed": c.global_seed,
        "label_sampling": c.label_sampling,
        "num_samples": c.num_fid_samples,
        "batch_size": c.per_proc_batch_size,
    }
    return describe_images(maker, drawn)


def describe_images(maker: ImageMaker, drawn: dict) -> dict:
    """Return everything that determines images, JSON-compatible.

    Args:
        drawn: the settings that choose the images: the seed, and how labels are drawn.
    """
    c, codec = maker.config, maker.codec
    return {
        "weights_sha256": maker.trained.weights_sha256,
        "weights": maker.trained.kind,
        "step": maker.trained.step,
        **maker.settings,
        **({"null_label": False} if not maker.trained.arch.get("class_dropout_prob", 1) else {}),
        "vae": codec.name,
        "vae_fingerprint": weights_fingerprint(codec.vae) if hasattr(codec, "vae") else None,
        "solver": solver_settings(c),
        "solved_interval": maker.interval,
        "cfg_scale": c.cfg_scale,
        "cfg_channels": c.cfg_channels,
        "guidance_interval": c.guidance_interval,
        **drawn,
        "dtype": describe_dtype(c.bf16, c.tf32, maker.device),
        "compiled": c.compile,
        "device": maker.device.type,
        "versions": {"layersync": layersync.__version__, "torch": torch.__version__}
        | {name: version(name) for name in ("numpy", "torchdiffeq", "diffusers")},
    }


def output_path(c: ODE | SDE, recipe: dict) -> Path:
    """Return the .npz to write: --out, or a name in --sample-dir made of the recipe."""
    if c.out:
        return Path(c.out)
    name = weights_name(recipe["model"].replace("/", "-"), recipe["step"], c.ckpt or SIT_NAME)
    name += f"-{type(c).__name__}-{c.sampling_method}-{c.num_sampling_steps}"
    name += f"-cfg{c.cfg_scale:g}-seed{c.global_seed}"
    # a hash of all else that makes the samples, such as the run that the weights are from
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return Path(c.sample_dir) / f"{name}-{digest[:8]}.npz"


def weights_name(model: str, step: int | None, ckpt: str) -> str:
    """Return model and step, or the name of a file whose weights name no step."""
    if step is not None:
        return f"{model}-{step:07d}"
    stem = Path(ckpt).stem
    return stem if stem.lower().startswith(model.lower()) else f"{model}-{stem}"
