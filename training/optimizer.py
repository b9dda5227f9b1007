"""AdamW, and the learning rate as a function of the step."""

import math

import torch
from torch import nn

from training.config import OptimConfig


def make_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    params = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        params, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )


def learning_rate(config: OptimConfig, step: int, last_step: int) -> float:
    """Return the rate of the step that follows `step` steps.

    The warm-up rises linearly and reaches `lr` with step number `warmup_steps`; a cosine then falls
    from `lr` to 0 at `last_step`.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.lr_schedule == "constant":
        return config.lr * warmup
    done = max(0, step - config.warmup_steps) / max(1, last_step - config.warmup_steps)
    return config.lr * warmup * (1 + math.cos(math.pi * done)) / 2
