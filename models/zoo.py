"""SiT by name: models of the sizes in models/sizes.py, and weights that say which they belong to.

`SiT_models["SiT-XL/2"](input_size=32, num_classes=1000)` builds one.
"""

import math
from functools import partial

from models.sit import SiT
from models.sizes import DIMENSIONS, dimensions

SiT_models = {name: partial(SiT, **sizes) for name, sizes in DIMENSIONS.items()}


def find_model(name: str) -> partial:
    """Return the constructor of the model called `name`; `ValueError` for an unknown one."""
    dimensions(name)
    return SiT_models[name]


def build_model(arch: dict) -> SiT:
    """Build the network that `arch` describes by its size's `name` and the arguments of `SiT`."""
    return find_model(arch["name"])(**{key: arch[key] for key in arch if key != "name"})


def describe_weights(
    weights: dict, num_classes: int | None = None, where: str = "these weights"
) -> dict:
    """Return what rebuilds the network that a state dict belongs to, with its name.

    Args:
        weights: a SiT's state dict.
        num_classes: tells a table of K labels from one of K - 1 and the null label, which is what
            it is taken for otherwise.
        where: what an error calls them.

    `ValueError` when it is not a SiT of the zoo.
    """
    try:
        patches = weights["x_embedder.proj.weight"].shape  # (D, C, p, p)
        tokens = weights["pos_embed"].shape[1]
        rows = weights["y_embedder.embedding_table.weight"].shape[0]
        outputs = weights["final_layer.linear.weight"].shape[0]
        depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    except (KeyError, ValueError, IndexError) as error:
        lacking = f"no {error.args[0]}" if isinstance(error, KeyError) else "its names are others"
        raise ValueError(f"{where}: not the weights of a SiT ({lacking})") from None
    own = dict(depth=depth, hidden_size=patches[0], patch_size=patches[2])
    for name, model in SiT_models.items():
        if all(model.keywords[key] == value for key, value in own.items()):
            return dict(
                name=name,
                input_size=math.isqrt(tokens) * patches[2],
                in_channels=patches[1],
                **(
                    dict(num_classes=rows, class_dropout_prob=0.0)
                    if rows == num_classes
                    else dict(num_classes=rows - 1)
                ),
                learn_sigma=outputs == 2 * patches[1] * patches[2] ** 2,
            )
    sizes = ", ".join(f"{key} {value}" for key, value in own.items())
    raise ValueError(f"{where}: a SiT with {sizes}, which no model of the zoo has")
