"""Weights of a network in files of this project, SiT, REPA and LayerSync."""

from pathlib import Path

from torch import Tensor, nn

IGNORED_PREFIXES = ("projectors.",)  # REPA's alignment heads are not part of the network


def weights_of(checkpoint: dict, path: str | Path, kind: str = "ema") -> dict[str, Tensor]:
    """The network's state dict: `kind` ("ema" or "model") of a dict that has it, else the whole.

    Prefixes left by DDP and torch.compile are removed and REPA's projector keys dropped.
    """
    weights = checkpoint.get(kind, checkpoint)
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(f"checkpoint {path}: no state dict in it (neither {kind} nor weights)")
    named = {}
    for key, value in weights.items():
        key = key.removeprefix("module.").removeprefix("_orig_mod.")
        if not key.startswith(IGNORED_PREFIXES):
            named[key] = value
    dropped = len(weights) - len(named)
    if dropped:
        print(f"{path}: {dropped} projector tensors (REPA) are not part of the network, dropped")
    return named


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load all of `weights` into all of `model`; `ValueError` names the first few misfits."""
    own = model.state_dict()
    wrong = [f"{key} missing" for key in own if key not in weights]
    wrong += [f"{key} unknown" for key in weights if key not in own]
    wrong += [
        f"{key} is {tuple(weights[key].shape)} there and {tuple(own[key].shape)} here"
        for key in own
        if key in weights and own[key].shape != weights[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"checkpoint {path}: its weights are of another network than the flags describe "
            f"(--model, --image-size, --num-classes, --vae): {'; '.join(wrong[:3])}{more}"
        )
    model.load_state_dict(weights)
