"""Settings of a sampling run, and how they combine with what the checkpoint says. No torch here.

Settings that describe the network have no default: they come from the checkpoint, and a flag that
contradicts it is an error. Flags of the original sample_ddp.py keep their names and meaning.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from training.checks import require
from training.config import flag

PATHS = ("Linear", "GVP", "VP")
OFFICIAL = {"vae": "ema", "path_type": "Linear", "prediction": "velocity", "sample_eps": None}
"""What a checkpoint without a config, as the official ones are, was trained with."""


@dataclass(frozen=True)
class SampleConfig:
    # --- what to sample
    ckpt: str | None = None
    """checkpoint of train.py, SiT, REPA or LayerSync; its EMA weights are used. SiT's own name for
    its weights, SiT-XL-2-256x256.pt in this folder, unless given"""
    num_fid_samples: int = 50_000
    """number of images"""
    cfg_scale: float = 1.0
    """guidance scale; 1 is no guidance"""
    cfg_channels: Literal["3", "all"] = "3"
    """latent channels that are guided; SiT's published numbers guide 3 of 4"""
    global_seed: int = 0
    """image i depends on the seed and i alone"""
    num_sampling_steps: int = 250
    """grid points N; a fixed-step solver makes N - 1 steps"""

    # --- how and where
    per_proc_batch_size: int = 32
    """images per batch; part of the recipe, because adaptive solvers couple a batch's images"""
    tf32: bool = True
    """TF32 matrix products on hardware that has them"""
    sample_dir: str = "samples"
    """the .npz and a preview .png are written in here"""
    out: str | None = None
    """the .npz to write, instead of a name made of the settings in --sample-dir"""

    # --- the network: read from the checkpoint; checked against it when given
    model: str | None = None
    """SiT-{S,B,L,XL}/{2,4,8}"""
    image_size: int | None = None
    """side of the images, pixels"""
    num_classes: int | None = None
    """number of classes"""
    vae: str | None = None
    """ema, mse, a hub id or a folder: another autoencoder of the same latents may decode"""
    path_type: Literal["Linear", "GVP", "VP"] | None = None
    """interpolant"""
    prediction: Literal["velocity", "score", "noise"] | None = None
    """what the network predicts"""
    loss_weight: Literal["velocity", "likelihood"] | None = None
    """accepted for the original's command lines; sampling does not depend on it"""
    train_eps: float | None = None
    """accepted for the original's command lines; sampling does not depend on it"""
    sample_eps: float | None = None
    """distance of sampling times from the singular ends"""


@dataclass(frozen=True)
class ODE(SampleConfig):
    """The probability-flow ODE, solved by torchdiffeq."""

    sampling_method: str = "dopri5"
    """euler, midpoint, heun2, heun3, rk4, or adaptive: dopri5, dopri8, bosh3, ..."""
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


def check_sample_config(c: SampleConfig) -> None:
    """Everything that can be said without the checkpoint; `ValueError` names the flag."""
    for name in ("num_fid_samples", "per_proc_batch_size"):
        require(c, name, getattr(c, name) >= 1, "at least 1")
    require(c, "global_seed", c.global_seed >= 0, "at least 0")
    require(c, "cfg_scale", c.cfg_scale >= 1, "at least 1, which means no guidance")
    require(c, "out", c.out is None or c.out.endswith(".npz"), "the name of an .npz file")
    if isinstance(c, ODE):
        require(c, "atol", c.atol > 0, "positive")
        require(c, "rtol", c.rtol > 0, "positive")
    if isinstance(c, ODE) and c.likelihood and (c.cfg_scale > 1 or c.reverse):
        raise ValueError("--likelihood needs --cfg-scale 1 and no --reverse: a guided field has no "
                         "density of its own")  # fmt: skip


def resolve(c: SampleConfig, arch: dict, stored: dict | None) -> dict:
    """The settings in force: the checkpoint's, else the flag's, else the official ones.

    Args:
        arch: the network as read from the checkpoint.
        stored: the config of the training run, None for a checkpoint that carries none.

    Raises `ValueError` for a flag that contradicts the checkpoint.
    """
    stored = stored or {}
    transport = stored.get("transport", {})
    known = {"model": arch["name"], "num_classes": arch["num_classes"]}
    known |= {key: stored[key] for key in ("image_size", "vae") if key in stored}
    known |= {key: transport[key] for key in ("path_type", "prediction") if key in transport}
    for name, value in known.items():
        given = getattr(c, name)
        decodes_alike = name == "vae" and "none" not in (given, value)
        if given is not None and given != value and not decodes_alike:
            raise ValueError(
                f"{flag(name)} {given}: the checkpoint says {value}; leave the flag out"
            )
    defaults = OFFICIAL | known | {"sample_eps": transport.get("sample_eps")}
    given = {key: getattr(c, key) for key in (*OFFICIAL, "image_size")}
    return defaults | {key: value for key, value in given.items() if value is not None}


def stored_settings(checkpoint: dict) -> dict | None:
    """What a checkpoint says of its training: our config, or the command line that SiT stores."""
    if "config" in checkpoint:
        codec = {"vae": checkpoint["codec"]} if "codec" in checkpoint else {}  # a folder, resolved
        return checkpoint["config"] | codec
    args = checkpoint.get("args")
    if getattr(args, "path_type", None) not in PATHS:
        return None  # none, or of another program
    transport = {key: getattr(args, key, None) for key in ("path_type", "prediction", "sample_eps")}
    return {"image_size": args.image_size, "transport": transport}


def solver_settings(c: ODE | SDE) -> dict:
    """The part of the recipe that names the solver."""
    own = {f.name for f in dataclasses.fields(c)} - {
        f.name for f in dataclasses.fields(SampleConfig)
    }
    return {"solver": type(c).__name__, "num_sampling_steps": c.num_sampling_steps} | {
        name: getattr(c, name) for name in sorted(own)
    }
