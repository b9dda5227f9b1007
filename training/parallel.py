"""Spreading of a step over devices: precision, DDP or FSDP2, accumulation, recomputation.

The network itself is never replaced: wrappers go around it or shard it in place, so that what is
captured and sampled is always the same object.
"""

import os
import warnings
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DDPCommunicationHookType,
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
)
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from models import SiT
from models.compiling import compile_network
from runtime.command import warn
from runtime.launch import join_launch
from runtime.processes import PATIENCE, meeting
from training.config import EngineConfig, OptimConfig, Precision
from training.originals import with_frozen

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def resolve_precision(precision: Precision) -> Precision:
    """Return what "auto" means on this machine."""
    if precision != "auto":
        return precision
    has_it = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_it else "fp32"


def start_accelerator(config: EngineConfig, folder: Path, wandb: bool = False) -> Accelerator:
    """Join the process group of this launch, or run alone; CUDA if there is any.

    The device is that of LOCAL_RANK, this process's number on its own machine. Raises `ValueError`
    when the network is to be sharded there, and this torch does not.
    """
    join_launch()
    forget_accelerates_variables()
    precision = resolve_precision(config.precision)
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    with meeting():
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="bf16" if precision == "bf16" else "no",
            log_with=["tensorboard", *(["wandb"] if wandb else [])],
            project_dir=folder,
            kwargs_handlers=[
                gradient_exchange(config),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )
    sharded = config.sharding != "none" and accelerator.num_processes > 1
    if sharded and not can_shard(accelerator.device):
        raise ValueError(
            f"--shard {config.sharding}: torch {torch.__version__} shards on GPUs only, and there "
            f"is none here; leave it out, or install a newer torch"
        )
    return accelerator


def forget_accelerates_variables() -> None:
    """Take `accelerate launch`'s settings out of the environment: flags and config.json hold alone.

    They would compile the network or wrap it in another way, and no record would say so.
    """
    given = [name for name in os.environ if name.startswith("ACCELERATE_")]
    for name in given:
        del os.environ[name]
    if given:
        warn(
            f"{', '.join(sorted(given))}: not used, the settings of a run are its flags "
            f"(--precision, --compile, --shard, --accumulation-steps)"
        )


def can_shard(device: torch.device) -> bool:
    """Return whether this torch shards networks on such a device: torch 2.6 on GPUs only."""
    return device.type != "cpu" or hasattr(torch.cpu.Stream, "record_event")


def gradient_exchange(config: EngineConfig) -> DistributedDataParallelKwargs:
    """Return DDP's settings: in which precision gradients are exchanged, and from where."""
    hooks = DDPCommunicationHookType
    return DistributedDataParallelKwargs(
        # they live in what is exchanged: no second memory, and nothing is copied back from there
        gradient_as_bucket_view=True,
        comm_hook=hooks.BF16 if config.bf16_gradients else hooks.NO,
    )


class Parallel:
    """The trained network and its EMA on this process's device, wrapped as the settings say.

    `model` is what the loss calls; `network` is the same without wrappers. `masters` has the
    weights in float32 that the optimizer changes and checkpoints keep: the network itself, but for
    `bf16_weights` without sharding, where it is a copy (FSDP2 has float32 shards of its own).
    """

    def __init__(self, network: SiT, ema: SiT, accelerator: Accelerator, config: EngineConfig):
        self.network, self.ema, self.accelerator = network, ema, accelerator
        self.sharding = config.sharding if accelerator.num_processes > 1 else "none"
        self.sharded = self.sharding != "none"
        network.checkpoint_activations = config.checkpoint_activations
        if config.bf16_residual or config.bf16_weights:
            network.residual_dtype = torch.bfloat16 if config.bf16_residual else torch.float32
        self.masters: nn.Module = network
        for module in (network, ema):
            module.to(accelerator.device)
        if self.sharded:
            shard(network, self.sharding == "all", gathered_precision(config))
            shard(ema)
        elif config.bf16_weights:
            self.masters = deepcopy(network)
            network.to(torch.bfloat16)
        self.compiled = bool(config.compile)
        if config.compile:
            compile_network(network)
            compile_network(ema)
        self.model = network if self.sharded else accelerator.prepare_model(network)

    def accumulating(self, last: bool):
        """Return the context of a backward pass: only a step's last one exchanges gradients."""
        if self.sharded:
            sharded: Any = self.network  # fully_shard gave it more methods
            sharded.set_requires_gradient_sync(last)
            if self.sharding == "optimizer":  # the next pass of the step needs the same weights
                sharded.set_reshard_after_backward(last)
            return nullcontext()
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def autocast(self):
        """Return the context of a sharded network's passes, which accelerate has not wrapped."""
        return self.accelerator.autocast() if self.sharded else nullcontext()

    def collect_gradients(self) -> None:
        """Move the gradients of a backward pass to the masters, in float32."""
        if self.masters is not self.network:
            for master, weight in self.weights():
                master.grad = None if weight.grad is None else weight.grad.float()
                weight.grad = None

    @torch.no_grad()
    def publish_weights(self) -> None:
        """Give the network the masters' weights, rounded to its own precision."""
        if self.masters is not self.network:
            masters, weights = zip(*self.weights(), strict=True)
            torch._foreach_copy_(weights, masters)

    def weights(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Return (master, the network's) of each parameter."""
        return list(zip(self.masters.parameters(), self.network.parameters(), strict=True))

    def one_pass(self, optimizer: torch.optim.AdamW, config: OptimConfig):
        """Make the kernel of a step, see training/one_pass.py; CUDA only."""
        from training.one_pass import OnePass

        learned = [i for i, p in enumerate(self.masters.parameters()) if p.requires_grad]
        averages, weights = list(self.ema.parameters()), list(self.network.parameters())
        copies = learned if self.masters is not self.network else []
        return OnePass(
            optimizer,
            [averages[i] for i in learned],
            config.ema_decay,
            [weights[i] for i in copies],
        )

    def gradient_norm(self) -> Tensor:
        """Return the global norm of the masters' gradients, a scalar on the device."""
        gradients = [p.grad for p in self.masters.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def state(self, optimizer: torch.optim.Optimizer) -> dict:
        """Return whole state dicts, whatever the sharding: a collective.

        Where nothing is sharded they hold the live tensors. Else they are on the CPU, and only the
        first process gets the content.
        """
        options = WHOLE if self.sharded else StateDictOptions(full_state_dict=True)
        trained = get_optimizer_state_dict(self.masters, optimizer, options=options)
        return {
            "model": get_model_state_dict(self.masters, options=options),
            "ema": get_model_state_dict(self.ema, options=options),
            "opt": with_frozen(trained, [name for name, _ in self.network.named_parameters()]),
        }

    def load_state(self, optimizer: torch.optim.Optimizer, state: dict) -> None:
        """Load what `state` gave, saved from any number of processes, sharded or not."""
        whole = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.masters, state["model"], options=whole)
        set_model_state_dict(self.ema, state["ema"], options=whole)
        load_optimizer_state(self.masters, optimizer, state["opt"])
        self.publish_weights()


def load_optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a whole state that names parameters as `network` does; `ValueError` if one lacks."""
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and name not in state["state"]:
            raise ValueError(f"its optimizer has no state of {name}; resume from another file")
    whole = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(network, optimizer, state, options=whole)
    for group in optimizer.param_groups:
        group["betas"] = tuple(group["betas"])  # it comes back as a list


def gathered_precision(config: EngineConfig):
    """Return FSDP2's policy: in which precision weights are gathered and gradients exchanged."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if config.bf16_weights else None,
        reduce_dtype=torch.bfloat16 if config.bf16_gradients else torch.float32,
        cast_forward_inputs=False,  # the tokens stay as they are; autocast does the rest
    )


def shard(network: nn.Module, reshard: bool = True, policy: Any = None) -> None:
    """Split parameters over the processes by FSDP2, in place, and gather them where they are used.

    Args:
        reshard: free each block's weights when it has run. Else they stay until the backward pass,
            which then gathers nothing: twice instead of three times the weights' bytes are sent.
        policy: its `MixedPrecisionPolicy`.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # FSDP2 warns of changing the network's output in place, which nothing here does
    warnings.filterwarnings("ignore", message=r".*returned a view tensor", category=UserWarning)
    policy = policy or MixedPrecisionPolicy()
    for block in network.get_submodule("blocks").children():
        fully_shard(block, reshard_after_forward=reshard, mp_policy=policy)
    # by default the outermost module stays whole after a forward pass, until a backward pass that
    # the EMA never has
    fully_shard(network, reshard_after_forward=reshard, mp_policy=policy)
