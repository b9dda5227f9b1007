"""A tiny SiT with random weights everywhere, where training starts at zero as well."""

import torch

from models import SiT, SiT_models


def random_sit(name: str = "SiT-Ti/2", std: float = 0.05, seed: int = 0, **sizes) -> SiT:
    """Return a network for 8 x 8 inputs, in eval mode; `sizes` are arguments of `SiT`."""
    torch.manual_seed(seed)
    model = SiT_models[name](**{"input_size": 8} | sizes).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=std)
    return model


def save_random_sit(path, stored: dict | None = None, **options) -> str:
    """Save such a network as official files are, with what else is `stored`; return `path`."""
    torch.save({"ema": random_sit(**options).state_dict()} | (stored or {}), path)
    return str(path)
