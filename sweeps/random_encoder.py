"""Write the weights of a tiny vision transformer at random: REPA's encoder in a miniature.

python -m sweeps.random_encoder FILE.safetensors
"""

import sys
from pathlib import Path

MODEL = "test_vit"  # timm's, 0.3 M parameters


def write_encoder(path: Path) -> None:
    """Write the same random weights each time, as `--repa-encoder-weights` reads them."""
    import timm
    import torch
    from safetensors.torch import save

    from runtime.files import replace_file

    torch.manual_seed(0)
    weights = timm.create_model(MODEL, num_classes=0).state_dict()
    replace_file(path, lambda file: file.write(save(weights)))


if __name__ == "__main__":
    write_encoder(Path(sys.argv[1]))
