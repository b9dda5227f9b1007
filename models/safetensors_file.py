"""A network's weights as .safetensors, with what is known of its training in the metadata."""

import json
from pathlib import Path

from models.trained import Trained
from runtime.files import replacing


def write_safetensors(path: Path, trained: Trained) -> None:
    """Write the weights under the official names, all or nothing; `read_checkpoint` reads it."""
    from safetensors.torch import save_file

    metadata = {"format": "pt", "weights": trained.kind}
    if trained.settings:
        metadata["config"] = json.dumps(trained.settings)
    if trained.step is not None:
        metadata["step"] = str(trained.step)
    if trained.reversed_time:
        metadata["time"] = "reversed"
    weights = {key: tensor.contiguous() for key, tensor in trained.weights.items()}
    with replacing(path) as temporary:
        save_file(weights, temporary, metadata)
