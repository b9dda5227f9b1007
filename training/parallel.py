"""How a step is spread over devices: precision, DDP or FSDP2, accumulation, recomputation.

The network itself is never replaced: wrappers go around it or shard it in place, so that what is
captured, averaged and saved is always the same object.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from models import SiT
from runtime.launch import join_launch
from runtime.processes import PATIENCE
from training.config import EngineConfig, Precision

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def resolve_precision(precision: Precision) -> Precision:
    """Return what "auto" means on this machine."""
    if precision != "auto":
        return precision
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"


def start_accelerator(config: EngineConfig, folder: Path, wandb: bool = False) -> Accelerator:
    """Join the process group of this launch, or run alone; CUDA if there is any.

    The device is that of LOCAL_RANK, this process's number on its own machine.
    """
    join_launch()
    precision = resolve_precision(config.precision)
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if precision == "bf16" else "no",
        log_with=["tensorboard", *(["wandb"] if wandb else [])],
        project_dir=folder,
        kwargs_handlers=[
            # gradients live in the buckets that are exchanged, instead of being copied there
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )


class Parallel:
    """The trained network and its EMA on this process's device, wrapped as the settings say.

    `model` is what the loss calls; `network` is the same without wrappers.
    """

    def __init__(
        self, network: SiT, ema: nn.Module, accelerator: Accelerator, config: EngineConfig
    ):
        self.network, self.ema, self.accelerator = network, ema, accelerator
        self.sharded = config.fsdp and accelerator.num_processes > 1
        network.checkpoint_activations = config.checkpoint_activations
        ema.to(accelerator.device)
        if self.sharded:
            network.to(accelerator.device)
            shard(network)
            shard(ema)
        if config.compile:
            for block in network.blocks:
                block.compile()
        self.model = network if self.sharded else accelerator.prepare_model(network)

    def accumulating(self, last: bool):
        """Around a backward pass: gradients are exchanged in the last one of a step only."""
        if self.sharded:
            sharded: Any = self.network  # fully_shard gave it more methods
            sharded.set_requires_gradient_sync(last)
            return nullcontext()
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def autocast(self):
        """For a sharded network, which accelerate has not wrapped."""
        return self.accelerator.autocast() if self.sharded else nullcontext()

    def gradient_norm(self) -> Tensor:
        """The global norm of the gradients, a scalar on the device."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def state(self, optimizer: torch.optim.Optimizer) -> dict:
        """Return whole state dicts, whatever the sharding: a collective.

        Where nothing is sharded they hold the live tensors. Else they are on the CPU, and only the
        first process gets the content.
        """
        options = WHOLE if self.sharded else StateDictOptions(full_state_dict=True)
        return {
            "model": get_model_state_dict(self.network, options=options),
            "ema": get_model_state_dict(self.ema, options=options),
            "opt": get_optimizer_state_dict(self.network, optimizer, options=options),
        }

    def load_state(self, optimizer: torch.optim.Optimizer, state: dict) -> None:
        """Load what `state` gave, saved from any number of processes, sharded or not."""
        whole = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.network, state["model"], options=whole)
        set_model_state_dict(self.ema, state["ema"], options=whole)
        load_optimizer_state(self.network, optimizer, state["opt"])


def load_optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a whole state that names parameters as `network` does."""
    whole = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(network, optimizer, state, options=whole)
    for group in optimizer.param_groups:
        group["betas"] = tuple(group["betas"])  # it comes back as a list


def shard(network: nn.Module) -> None:
    """FSDP2: each block's parameters are gathered when it runs, the rest with the network."""
    from torch.distributed.fsdp import fully_shard

    for block in network.get_submodule("blocks").children():
        fully_shard(block)
    # by default the outermost module stays whole after a forward pass, until a backward pass that
    # the EMA never has
    fully_shard(network, reshard_after_forward=True)
