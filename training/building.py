"""Ways from settings to a run at its first step: checks, processes, data, network, where it starts.

Nothing is written here but the lock of the run's folder, and every error is a `ValueError` for the
user.
"""

import dataclasses
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from data.encoding import Encoding
from data.fitting import fitted
from data.order import batch_shard
from data.source_protocol import Source
from data.sources import known_list, load_source
from models import SiT, find_model
from models.compiling import can_compile, check_can_compile, compiled, needed_to_compile
from models.trained import load_weights, start_from_weights
from runtime.command import warn
from runtime.flags import flag
from runtime.locks import OutputLock
from runtime.processes import told_by_first
from training.checks import check_precision, check_train_config
from training.config import TrainConfig
from training.methods.method import Materials, Regularizer, as_given
from training.methods.methods import check_pass, make_regularizers
from training.parallel import Parallel, resolve_precision, start_accelerator
from training.runs import (
    check_start,
    claim_folder,
    find_checkpoint,
    read_start,
    run_folder,
    warn_of_other_data,
)
from training.settings_record import in_force
from training.step_draws import StepDraws
from transport import Transport, create_transport


@dataclass(frozen=True)
class Built:
    """Parts of a run before its optimizer is made."""

    config: TrainConfig
    """as it is in force: with what is left to the machine, the model or the data"""
    folder: Path
    lock: OutputLock
    """held as long as this is referred to: one launch at a time trains in the folder"""
    accelerator: Accelerator
    shard: range
    """positions of this process in the global batch"""
    transport: Transport
    encoding: Encoding
    """with the source of the data"""
    data_list: str | None
    """`known_list` of that, on the first process"""
    last_step: int
    """where the run ends"""
    arch: dict
    """what rebuilds the network: arguments of `build_network`"""
    parallel: Parallel
    """the network and its moving average"""
    regularizers: list[Regularizer]
    compiled: Callable
    """compiles a function or a module, or leaves it as it is"""
    draws: StepDraws
    """what a step draws and reads besides its items"""
    start: dict | None
    """the checkpoint to continue from, its weights already in the network; None at step 0"""
    start_path: Path | None
    """where that was read"""


def build_run(config: TrainConfig) -> Built:
    """Check the settings, then make everything in the order in which it can be refused."""
    check_train_config(config)
    config = fitted(decided_here(config), fewer_classes=config.fine_tune)
    config = in_force(config)
    folder = run_folder(config)
    lock = claim_folder(config, folder)
    with lock.released_on_error():
        return build_in(config, folder, lock)


def build_in(config: TrainConfig, folder: Path, lock: OutputLock) -> Built:
    """Make the run in its folder, which this launch has for itself."""
    transport = create_transport(**dataclasses.asdict(config.transport))
    accelerator = start_accelerator(config.engine, folder, config.wandb)
    path = told_by_first(lambda: find_checkpoint(config, folder))
    start = read_start(config, path) if path else None  # before the data, which may take minutes
    shard = share_of_batch(config, accelerator)

    source = load_source(config, config.global_batch_size)
    check_same_data(source)
    data_list = known_list(source) if accelerator.is_main_process else None
    encoding = Encoding(config, config.model, source, accelerator.device)
    last_step = end_of_run(config, source)
    if decodes(config, last_step):
        encoding.check_decoder()

    arch = describe_network(config, encoding)
    network = build_network(arch, config.global_seed)
    if path and start:
        check_start(config, arch, len(source), last_step, start, path)
        warn_of_other_data(start, path, data_list)
        load_weights(network, start["model"], path)
    elif config.fine_tune and config.ckpt:
        say_other_transport(config, start_from_weights(network, config.ckpt))
    ema = deepcopy(network).eval().requires_grad_(False)
    parallel = Parallel(network, ema, accelerator, config.engine)

    materials = Materials(
        config=config,
        last_step=last_step,
        network=network,
        ema=ema,
        transport=transport,
        source=source,
        accelerator=accelerator,
        compiled=compiled if config.engine.compile else as_given,
    )
    regularizers = make_regularizers(materials)
    return Built(
        config=config,
        folder=folder,
        lock=lock,
        accelerator=accelerator,
        shard=shard,
        transport=transport,
        encoding=encoding,
        data_list=data_list,
        last_step=last_step,
        arch=arch,
        parallel=parallel,
        regularizers=regularizers,
        compiled=materials.compiled,
        draws=make_draws(materials, encoding, regularizers),
        start=start,
        start_path=path,
    )


def decided_here(config: TrainConfig) -> TrainConfig:
    """Return the settings as they are recorded: with what is left to the machine decided."""
    given = config.engine
    if given.compile:
        check_can_compile()
    compile = can_compile() if given.compile is None else given.compile
    if given.compile is None and not compile and torch.cuda.is_available():
        warn(f"not compiled, so slower: that takes {needed_to_compile()}, which is not here")
    precision = resolve_precision(given.precision)
    check_precision(given, precision)
    engine = dataclasses.replace(given, precision=precision, compile=compile)
    return dataclasses.replace(config, engine=engine)


def share_of_batch(config: TrainConfig, accelerator: Accelerator) -> range:
    """Return this process's positions in the global batch; `ValueError` if it is not shared evenly.

    Methods may refuse a share that is too small for them.
    """
    parts = config.engine.accumulation_steps
    rank, world_size = accelerator.process_index, accelerator.num_processes
    shard = batch_shard(config.global_batch_size, rank, world_size, parts)
    check_pass(config, len(shard) // parts)
    return shard


def check_same_data(source: Source) -> None:
    """Raise `ValueError` on a process that sees another number of images than the first one."""
    first = told_by_first(lambda: len(source))
    if len(source) != first:
        raise ValueError(
            f"--data-path: {len(source)} images here and {first} on the first process: a copy of "
            f"the data differs, or its folder is still being written"
        )


def end_of_run(config: TrainConfig, source: Source) -> int:
    """Return the number of the last step: --max-steps, or unless given that of the last epoch."""
    return config.max_steps or config.epochs * (len(source) // config.global_batch_size)


def decodes(config: TrainConfig, last_step: int) -> bool:
    """Return whether a run makes images on its way."""
    return any(0 < n <= last_step for n in (config.sample_every, config.evaluation.eval_every))


def describe_network(config: TrainConfig, encoding: Encoding) -> dict:
    """Return what a checkpoint says of the network: arguments of `build_network`."""
    channels, size, _ = encoding.latent_shape
    return dict(
        name=config.model,
        input_size=size,
        in_channels=channels,
        num_classes=config.known_classes,
        learn_sigma=True,
    )


def say_other_transport(config: TrainConfig, stored: dict) -> None:
    """Warn where the weights that a run starts from were trained to predict something else.

    Args:
        stored: settings in their file.
    """
    there, here = stored.get("transport", {}), dataclasses.asdict(config.transport)
    other = [
        name for name in ("path_type", "prediction") if there.get(name, here[name]) != here[name]
    ]
    if other:
        trained = ", ".join(f"{flag(name)} {there[name]}" for name in other)
        own = ", ".join(f"{here[name]}" for name in other)
        warn(f"checkpoint {config.ckpt} was trained with {trained}; this run has {own}")


def make_draws(given: Materials, encoding: Encoding, regularizers: list[Regularizer]) -> StepDraws:
    """Return what a step draws and reads besides its items, regularisers' own draws at the end."""
    return StepDraws(
        seed=given.config.global_seed,
        transport=given.transport,
        dropout=given.network.class_dropout_prob,
        noise_shape=encoding.noise_shape,
        latent_shape=encoding.latent_shape,
        extra=[draw for regularizer in regularizers for draw in regularizer.draws],
        reads={name: read for each in regularizers for name, read in each.reads.items()},
    )


def build_network(arch: dict, seed: int) -> SiT:
    """Build the network that `arch` describes, its initial weights drawn from `seed`."""
    torch.manual_seed(seed)
    sizes = {key: value for key, value in arch.items() if key != "name"}
    return find_model(arch["name"])(**sizes)
