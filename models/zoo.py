"""The sizes of SiT: S, B, L, XL x patch size 2, 4, 8, as in the SiT paper (Table 1).

`SiT_models["SiT-XL/2"](input_size=32, num_classes=1000)` builds one.

SiT-Ti is not from any paper: it is small enough to be trained on a CPU in minutes, for the demo,
for tests and for trying a set-up out before renting a cluster.
"""

from functools import partial

from models.sit import SiT

SIZES = {
    "S": dict(depth=12, hidden_size=384, num_heads=6),
    "B": dict(depth=12, hidden_size=768, num_heads=12),
    "L": dict(depth=24, hidden_size=1024, num_heads=16),
    "XL": dict(depth=28, hidden_size=1152, num_heads=16),
}
TINY = dict(depth=8, hidden_size=96, num_heads=4)

SiT_models = {
    f"SiT-{size}/{patch}": partial(SiT, patch_size=patch, **dimensions)
    for size, dimensions in SIZES.items()
    for patch in (2, 4, 8)
} | {f"SiT-Ti/{patch}": partial(SiT, patch_size=patch, **TINY) for patch in (1, 2)}


def find_model(name: str) -> partial:
    """The constructor of the model called `name`; `ValueError` with the known names otherwise."""
    if name not in SiT_models:
        raise ValueError(f"--model {name}: no such model; choose from {', '.join(SiT_models)}")
    return SiT_models[name]
