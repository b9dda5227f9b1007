"""Settings of a sampling run. No torch here: --help is instant.

Settings that describe the network have no default: they come from the checkpoint
(sampling/checkpoint_settings.py). Flags of the original sample_ddp.py keep their names and meaning.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from runtime.flags import COMMON, COUNT, Range, check_ranges, require
from sampling.presets import Preset

SAMPLE = """Sample images from a checkpoint into one .npz, for FID. The first word is the solver,
and `ODE --help` and `SDE --help` show the flags; with --preset it may be left out."""


@dataclass(frozen=True)
class SampleConfig:
    # --- what to sample
    ckpt: str | None = None
    """checkpoint of train.py, SiT, REPA or LayerSync, .pt or .safetensors, or ORG/NAME/FILE on the
    Hugging Face hub. SiT's own name for its weights, SiT-XL-2-256x256.pt in this folder, unless
    given"""
    weights: Literal["ema", "model"] = "ema"
    """which of the checkpoint's networks: the average, or the one that was trained"""
    preset: Preset | None = None
    """a named set of flags, which other flags override: see docs/sampling.md"""
    num_fid_samples: int = 50_000
    """number of images"""
    cfg_scale: float = 1.0
    """guidance scale; 1 is no guidance"""
    cfg_channels: Literal["3", "all"] = "3"
    """latent channels that are guided; SiT's published numbers guide 3 of 4"""
    guidance_interval: tuple[float, float] | None = None
    """LOW HIGH: guide at these times only (t = 0 is noise), everywhere unless given"""
    label_sampling: Literal["random", "balanced"] = "random"
    """labels drawn independently, or each class once in every K images, in drawn orders"""
    global_seed: int = 0
    """image i depends on the seed and i alone"""
    num_sampling_steps: int = 250
    """grid points N; a fixed-step solver makes N - 1 steps"""

    # --- how and where
    per_proc_batch_size: int = 32
    """images per batch; part of the recipe, because adaptive solvers couple a batch's images"""
    tf32: bool = True
    """TF32 matrix products on hardware that has them"""
    bf16: bool = False
    """the network in bfloat16 autocast; the solver's state stays float32"""
    compile: bool = False
    """compile the blocks with torch.compile"""
    sample_dir: str = "samples"
    """the .npz and a preview .png are written in here"""
    out: str | None = None
    """the .npz to write, instead of a name made of the settings in --sample-dir"""
    save_png: bool = False
    """write every image as a .png too, into a folder beside the .npz"""

    # --- the network: read from the checkpoint; checked against it when given
    model: str | None = None
    """SiT-{S,B,L,XL}/{2,4,8}; this and the next five are read from the checkpoint, and a flag that
    contradicts it is an error"""
    image_size: int | None = None
    """side of the images, pixels"""
    num_classes: int | None = None
    """number of classes"""
    vae: str | None = None
    """ema, mse, a hub id, a folder, or none for pixels: another autoencoder of the same latents may
    decode; ema for a checkpoint that names none"""
    path_type: Literal["Linear", "GVP", "VP"] | None = None
    """interpolant; Linear for a checkpoint that names none"""
    prediction: Literal["velocity", "score", "noise"] | None = None
    """what the network predicts; velocity for a checkpoint that names none"""
    loss_weight: Literal["velocity", "likelihood"] | None = None
    """accepted for the original's command lines; sampling does not depend on it"""
    train_eps: float | None = None
    """accepted for the original's command lines; sampling does not depend on it"""
    sample_eps: float | None = None
    """distance of sampling times from the singular ends; SiT's for path and prediction unless
    given"""


@dataclass(frozen=True)
class ODE(SampleConfig):
    """The probability-flow ODE, solved by torchdiffeq."""

    sampling_method: str = "dopri5"
    """euler, midpoint, heun2, heun3, rk4, or adaptive: dopri5, dopri8, bosh3, fehlberg2,
    adaptive_heun"""
    atol: float = 1e-6
    """absolute tolerance of an adaptive method"""
    rtol: float = 1e-3
    """relative tolerance of an adaptive method"""
    reverse: bool = False
    """solve from t = 1 to 0 instead, taking the drawn noise for data, as the original does"""
    likelihood: bool = False
    """store each sample's likelihood under the flow too, in bits per dimension of the latents"""


@dataclass(frozen=True)
class SDE(SampleConfig):
    """The reverse SDE, on a uniform grid."""

    sampling_method: Literal["Euler", "Heun"] = "Euler"
    """Euler-Maruyama, or Heun's method for the drift"""
    diffusion_form: Literal[
        "constant", "SBDM", "sigma", "linear", "decreasing", "increasing-decreasing"
    ] = "sigma"
    """diffusion coefficient over time"""
    diffusion_norm: float = 1.0
    """scale of the diffusion coefficient"""
    last_step: Literal["Mean", "Tweedie", "Euler"] | None = "Mean"
    """how the last distance to the data is covered, without noise"""
    last_step_size: float = 0.04
    """that distance in t"""


TOLERANCE = Range(1e-12, 1e3)  # below, the float32 state cannot follow and steps shrink to nothing
RANGES = COMMON | {  # numbers that have one, by the names of their fields
    "num_fid_samples": Range(1, 10**9),
    "per_proc_batch_size": COUNT,
    "num_sampling_steps": Range(2, 10**6, what="at least 2, the ends: N points are N - 1 steps"),
    "atol": TOLERANCE,
    "rtol": TOLERANCE,
    "diffusion_norm": Range(0, 10**6),
    "last_step_size": Range(0, 1, below=True),
}


def check_sample_config(c: SampleConfig) -> None:
    """Everything that can be said without the checkpoint; `ValueError` names the flag."""
    check_ranges(c, RANGES)
    check_interval(c)
    require(c, "out", c.out is None or c.out.endswith(".npz"), "the name of an .npz file")
    if isinstance(c, ODE) and c.likelihood and (c.cfg_scale > 1 or c.reverse or c.bf16):
        raise ValueError(
            "--likelihood needs --cfg-scale 1, no --reverse and no --bf16: a guided field has no "
            "density of its own, and the divergence needs float32"
        )


def check_interval(c: SampleConfig) -> None:
    if c.guidance_interval is None:
        return
    low, high = c.guidance_interval
    given = f"--guidance-interval {low:g} {high:g}"
    if not 0 <= low < high <= 1:
        raise ValueError(f"{given}: it must be two times LOW < HIGH in [0, 1]; t = 0 is noise")
    if c.cfg_scale == 1:
        raise ValueError(f"{given} has no effect with --cfg-scale 1")


def solver_settings(c: ODE | SDE) -> dict:
    """The part of the recipe that names the solver."""
    own = {f.name for f in dataclasses.fields(c)} - {
        f.name for f in dataclasses.fields(SampleConfig)
    }
    return {"solver": type(c).__name__, "num_sampling_steps": c.num_sampling_steps} | {
        name: getattr(c, name) for name in sorted(own)
    }
