"""Settings of everything that makes images: checkpoint, guidance, solver, arithmetic.

No torch here: --help is instant. Settings that describe the network have no default: they come
from the checkpoint (sampling/checkpoint_settings.py). Flags of the original keep their names and
meaning.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from runtime.flags import COMMON, Range, check_ranges
from sampling.presets import Preset


@dataclass(frozen=True)
class SolverConfig:
    # --- what to sample from
    ckpt: str | None = None
    """checkpoint of train.py, SiT, REPA or LayerSync, .pt or .safetensors, ORG/NAME/FILE on the
    Hugging Face hub, or a published one by its short name: sit-xl-2, layersync-xl-2,
    layersync-xl-2-representation. SiT's weights unless given: SiT-XL-2-256x256.pt if it is in this
    folder, else sit-xl-2"""
    weights: Literal["ema", "model"] = "ema"
    """which of the checkpoint's networks: the average, or the one that was trained"""
    preset: Preset | None = None
    """a named set of flags, which other flags override: see docs/sampling.md"""
    cfg_scale: float = 1.0
    """guidance scale; 1 is no guidance"""
    cfg_channels: Literal["3", "all"] = "3"
    """latent channels that are guided; SiT's published numbers guide 3 of 4"""
    guidance_interval: tuple[float, float] | None = None
    """LOW HIGH: guide at these times only (t = 0 is noise), everywhere unless given"""

    # --- arithmetic
    tf32: bool = True
    """TF32 matrix products on hardware that has them"""
    bf16: bool = False
    """the network in bfloat16 autocast; the solver's state stays float32"""
    compile: bool = False
    """compile blocks and final layer with torch.compile"""

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
class Grid:
    num_sampling_steps: int = 250
    """grid points N; a fixed-step solver makes N - 1 steps"""


@dataclass(frozen=True)
class ODESolver(Grid):
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


@dataclass(frozen=True)
class SDESolver(Grid):
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
    "num_sampling_steps": Range(2, 10**6, what="at least 2, the ends: N points are N - 1 steps"),
    "atol": TOLERANCE,
    "rtol": TOLERANCE,
    "diffusion_norm": Range(0, 10**6),
    "last_step_size": Range(0, 1, below=True),
}


def check_solver_config(c: SolverConfig) -> None:
    """Check all that needs no checkpoint; raise `ValueError`, which names the flag."""
    check_ranges(c, RANGES)
    check_interval(c)


def check_interval(c: SolverConfig) -> None:
    if c.guidance_interval is None:
        return
    low, high = c.guidance_interval
    given = f"--guidance-interval {low:g} {high:g}"
    if not 0 <= low < high <= 1:
        raise ValueError(f"{given}: it must be two times LOW < HIGH in [0, 1]; t = 0 is noise")
    if c.cfg_scale == 1:
        raise ValueError(f"{given} has no effect with --cfg-scale 1")


def solver_settings(c: ODESolver | SDESolver) -> dict:
    """Return the part of the recipe that names the solver."""
    kind = SDESolver if isinstance(c, SDESolver) else ODESolver
    own = {field.name for field in dataclasses.fields(kind)} - {"num_sampling_steps"}
    own |= {"likelihood"} if hasattr(c, "likelihood") else set()
    name = kind.__name__.removesuffix("Solver")
    return {"solver": name, "num_sampling_steps": c.num_sampling_steps} | {
        name: getattr(c, name) for name in sorted(own)
    }
