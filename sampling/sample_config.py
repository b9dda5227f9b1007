"""Settings of a sampling run of sample_ddp.py. No torch here: --help is instant.

What they share with other ways of making images is in sampling/solver_config.py.
"""

from dataclasses import dataclass
from typing import Literal

from runtime.flags import COUNT, Range, check_ranges, require
from sampling.solver_config import ODESolver, SDESolver, SolverConfig, check_solver_config

SAMPLE = """Sample images from a checkpoint into one .npz, for FID. The first word is the solver,
and `ODE --help` and `SDE --help` show the flags; with --preset it may be left out."""


@dataclass(frozen=True)
class SampleConfig(SolverConfig):
    config: str | None = None
    """a .toml or .json file of settings by the names of flags, with `solver` for the first word; a
    set of samples or its recipe, whose settings are taken; other flags override it"""

    # --- which images
    num_fid_samples: int = 50_000
    """number of images"""
    label_sampling: Literal["random", "balanced"] = "random"
    """labels drawn independently, or each class once in every K images, in drawn orders"""
    global_seed: int = 0
    """image i depends on the seed and i alone"""

    # --- how and where
    per_proc_batch_size: int = 32
    """images per batch; part of the recipe, because adaptive solvers couple a batch's images"""
    sample_dir: str = "samples"
    """the .npz and a preview .png are written in here"""
    out: str | None = None
    """the .npz to write, instead of a name made of the settings in --sample-dir"""
    save_png: bool = False
    """write every image as a .png too, into a folder beside the .npz"""


@dataclass(frozen=True)
class ODE(ODESolver, SampleConfig):
    """The probability-flow ODE, solved by torchdiffeq."""

    likelihood: bool = False
    """store each sample's likelihood under the flow too, in bits per dimension of the latents"""


@dataclass(frozen=True)
class SDE(SDESolver, SampleConfig):
    """The reverse SDE, on a uniform grid."""


RANGES = {"num_fid_samples": Range(1, 10**9), "per_proc_batch_size": COUNT}


def check_sample_config(c: SampleConfig) -> None:
    """Check all that needs no checkpoint; raise `ValueError`, which names the flag."""
    check_ranges(c, RANGES)
    check_solver_config(c)
    require(c, "out", c.out is None or c.out.endswith(".npz"), "the name of an .npz file")
    if isinstance(c, ODE) and c.likelihood and (c.cfg_scale > 1 or c.reverse or c.bf16):
        raise ValueError(
            "--likelihood needs --cfg-scale 1, no --reverse and no --bf16: a guided field has no "
            "density of its own, and the divergence needs float32"
        )
