"""Sizes of SiT by name. No torch here, so that costs can be told without loading it.

S, B, L, XL x patch size 2, 4, 8 are the SiT paper's (Table 1). The others are of no paper: Ti is
small enough to be trained on a CPU in minutes, and B, L and XL "-narrow" have the blocks of their
namesakes, so the same pairs, at width 32: they show that an experiment runs, not what comes out.
"""

from typing import Any

SIZES: dict[str, dict[str, Any]] = {
    "S": dict(depth=12, hidden_size=384, num_heads=6),
    "B": dict(depth=12, hidden_size=768, num_heads=12),
    "L": dict(depth=24, hidden_size=1024, num_heads=16),
    "XL": dict(depth=28, hidden_size=1152, num_heads=16),
}
TINY: dict[str, Any] = dict(depth=8, hidden_size=64, num_heads=4)
NARROW: dict[str, Any] = dict(hidden_size=32, num_heads=4)
MARK = "-narrow"

DIMENSIONS: dict[str, dict[str, Any]] = (
    {f"SiT-{size}/{patch}": SIZES[size] | {"patch_size": patch}
     for size in SIZES for patch in (2, 4, 8)}
    | {f"SiT-Ti/{patch}": TINY | {"patch_size": patch} for patch in (1, 2)}
    | {f"SiT-{size}{MARK}/2": SIZES[size] | NARROW | {"patch_size": 2} for size in ("B", "L", "XL")}
)  # fmt: skip
"""{name: depth, hidden_size, num_heads, patch_size}"""


def dimensions(name: str) -> dict[str, Any]:
    """Return the sizes of the model called `name`; `ValueError` with the known names otherwise."""
    if name not in DIMENSIONS:
        raise ValueError(f"--model {name}: no such model; choose from {', '.join(DIMENSIONS)}")
    return DIMENSIONS[name]


def family(name: str) -> str:
    """Return the size in a model's name: "XL" of "SiT-XL/2", and of "SiT-XL-narrow/2"."""
    return name.removeprefix("SiT-").split("/")[0].removesuffix(MARK)


def narrow(name: str) -> str:
    """Return the name of the model of width 32 with as many blocks, and patches of 2."""
    return f"SiT-{family(name)}{MARK}/2"
