"""Named sets of flags for the rows of published tables. No torch here: --help is instant.

A preset stands for its flags and nothing else: flags that are given too override it, and the
recipe in the .npz holds what was in force, not the name.
"""

from typing import Literal

SOLVERS = ("ODE", "SDE")
Preset = Literal[
    "paper-ode-heun250", "paper-sde-em250", "sit-ode-dopri5", "sit-sde-em250", "sit-sde-cfg1.5",
    "repa-sde-em250", "repa-sde-interval",
]  # fmt: skip

UNGUIDED = {"--cfg-scale": "1"}
HEUN_250 = UNGUIDED | {"--sampling-method": "heun2", "--num-sampling-steps": "250"}
DOPRI5 = UNGUIDED | {"--sampling-method": "dopri5", "--atol": "1e-6", "--rtol": "1e-3"}
EULER_MARUYAMA_250 = UNGUIDED | {
    "--sampling-method": "Euler", "--num-sampling-steps": "250", "--diffusion-form": "sigma",
    "--last-step": "Mean", "--last-step-size": "0.04",
}  # fmt: skip

PRESETS: dict[Preset, tuple[str, dict[str, str]]] = {
    "paper-ode-heun250": ("ODE", HEUN_250),  # LayerSync's table without guidance
    "paper-sde-em250": ("SDE", EULER_MARUYAMA_250),  # that table's SDE row
    "sit-ode-dopri5": ("ODE", DOPRI5),  # SiT's default
    "sit-sde-em250": ("SDE", EULER_MARUYAMA_250),  # SiT-XL/2: FID 8.3
    "sit-sde-cfg1.5": ("SDE", EULER_MARUYAMA_250 | {"--cfg-scale": "1.5"}),  # SiT-XL/2: FID 2.06
    "repa-sde-em250": ("SDE", EULER_MARUYAMA_250),  # REPA: FID 5.90
    "repa-sde-interval": (  # REPA: FID 1.42; noise-time [0, 0.7] there, and all channels guided
        "SDE",
        EULER_MARUYAMA_250
        | {"--cfg-scale": "1.8", "--guidance-interval": "0.3 1", "--cfg-channels": "all"},
    ),
}  # fmt: skip


def expand_preset(args: list[str]) -> list[str]:
    """Return the command line with a preset's flags put before the others, which override them.

    Its solver, ODE or SDE, may be left out. Raises `ValueError` for a name that no preset has, and
    for another solver than the preset's.
    """
    name = preset_name(args)
    if name is None or name.startswith("-"):
        return args  # without --preset, or without its name, which the parser refuses
    if name not in PRESETS:
        raise ValueError(
            f"--preset {name}: there is no such preset; choose from {', '.join(PRESETS)}"
        )
    solver, flags = PRESETS[name]
    given = args[0] if args[0] in SOLVERS else None
    if given not in (None, solver):
        raise ValueError(f"--preset {name} is for {solver}, not {given}: leave out {given}")
    expanded = [word for flag, value in flags.items() for word in (flag, *value.split())]
    return [solver, *expanded, *(args[1:] if given else args)]


def preset_name(args: list[str]) -> str | None:
    """Return the name after --preset, None without it; of several, the last counts."""
    for i, word in reversed(list(enumerate(args))):
        if word.startswith("--preset="):
            return word.partition("=")[2]
        if word == "--preset" and i + 1 < len(args):
            return args[i + 1]
    return None


def name_solver(args: list[str]) -> list[str]:
    """Return the command line with ODE put first where a solver is left out."""
    asks_for_help = args[:1] in (["--help"], ["-h"])
    return args if asks_for_help or (args[:1] and args[0] in SOLVERS) else ["ODE", *args]
