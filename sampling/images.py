"""Making of images from a checkpoint: the network, guidance, solver and codec of one process."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from models import load_codec
from models.codecs import latent_size
from models.compiling import check_can_compile
from models.trained import Trained
from runtime.command import RunError
from runtime.memory import free_memory
from runtime.processes import choose_device
from runtime.randomness import image_streams
from sampling.checkpoint_settings import open_checkpoint
from sampling.labels import random_labels
from sampling.network import Network, prepare_model
from sampling.solver import is_sde, make_solver, solved_interval
from sampling.solver_config import ODESolver, SDESolver, SolverConfig
from transport import Guidance, Sampler, StepTooSmall, create_transport
from transport.likelihood import bits_per_dimension


class ImageMaker:
    """A maker of image i of a seed, whose noise, label and SDE draws depend on (seed, i) alone.

    Args:
        config: settings that have been checked, an `ODESolver` or `SDESolver` too.
        batch: images at a time.
        name: the flag that says how many.

    Raises `ValueError` for settings that contradict the checkpoint or the codec, and for a batch
    that does not fit in memory.
    """

    def __init__(self, config: SolverConfig, batch: int, name: str = "--per-proc-batch-size"):
        assert isinstance(config, ODESolver | SDESolver)
        self.config, self.device = config, choose_device()
        if config.compile:
            check_can_compile()
        torch.backends.cuda.matmul.allow_tf32 = config.tf32
        torch.backends.cudnn.allow_tf32 = config.tf32
        self.trained, settings = open_checkpoint(config)
        model = self.trained.model  # checked before a codec is looked for, maybe on the hub
        self.codec = load_codec(settings["vae"], self.device, self.trained.arch["in_channels"])
        self.settings = with_image_size(settings, self.trained, self.codec)
        self.shape = self.trained.shape
        self.image_shape = (*2 * (self.settings["image_size"],), self.codec.image_channels)
        sizes = math.prod(self.shape), math.prod(self.image_shape)
        check_batch_fits(name, batch, *sizes, self.device)
        prepare_model(model.to(self.device), config.bf16, config.compile)
        self.network = Network(self.trained.network, config.bf16)
        channels = None if config.cfg_channels == "all" else int(config.cfg_channels)
        self.guided = Guidance(self.network, config.cfg_scale, channels, config.guidance_interval)
        keys = "path_type", "prediction", "sample_eps"
        self.sampler = Sampler(create_transport(**{key: self.settings[key] for key in keys}))
        self.sample = make_solver(self.sampler, config)
        self.interval = solved_interval(self.sampler, config)

    def images(
        self, seed: int, numbers: range, labels: Tensor | None = None, likelihood: bool = False
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Make images `numbers` of a seed: uint8 (n, H, W, C), and columns of n values.

        Args:
            labels: int64 (n,); drawn unless given.
            likelihood: whether `bits_per_dim`, of an ODE, is among the columns, beside `labels`,
                `nfe` (number of function evaluations) and `network_passes`.

        Raises `RunError` for values that are not finite.
        """
        streams = image_streams(seed, numbers, self.device)
        drawn = random_labels(streams, self.settings["num_classes"])  # the noise comes after it
        labels = drawn if labels is None else labels.to(self.device)
        z = streams.normal(self.shape)  # (N, C, H, W)
        extra = {"noise": lambda step: streams.normal(self.shape)} if is_sde(self.config) else {}
        self.network.reset()
        with self.named(numbers):
            latents = self.sample(z, self.guided, y=labels, **extra)[-1]
        if not latents.isfinite().all():
            raise RunError(
                f"images {numbers[0]} to {numbers[-1]}: the solver gave NaN or infinity; look at "
                f"the weights, and at --cfg-scale and --bf16 if given"
            )
        columns = {
            "labels": labels,
            "nfe": torch.full((len(numbers),), self.network.evaluations),
            "network_passes": torch.full((len(numbers),), self.network.passes),
        }
        if likelihood and isinstance(self.config, ODESolver):
            with self.named(numbers):
                bits = self.bits_per_dimension(self.config, latents, labels, streams)
            columns["bits_per_dim"] = bits
        images = self.codec.decode(latents).cpu().numpy()
        return images, {name: column.cpu().numpy() for name, column in columns.items()}

    @contextmanager
    def named(self, numbers: range) -> Iterator[None]:
        """Raise `RunError`, with the images and the flags to change, where the solver gave up."""
        try:
            yield
        except StepTooSmall as error:
            raise RunError(
                f"images {numbers[0]} to {numbers[-1]}: {error}; give a larger --atol and --rtol, "
                f"or a --sampling-method of fixed steps, as heun2 or euler"
            ) from None

    def bits_per_dimension(self, c: ODESolver, latents, labels, streams) -> Tensor:
        """Return the likelihood (N,) of latents (N, C, H, W) under the flow, bits per dimension."""
        evaluate = self.sampler.sample_ode_likelihood(
            sampling_method=c.sampling_method,
            num_steps=self.config.num_sampling_steps,
            atol=c.atol,
            rtol=c.rtol,
        )
        probe = streams.normal(self.shape).sign()
        log_density, _ = evaluate(latents, self.guided, probe=probe, y=labels)
        return bits_per_dimension(log_density, latents[0].numel())


def check_batch_fits(
    name: str, batch: int, numbers: int, pixels: int, device: torch.device
) -> None:
    """Raise `ValueError` when the noise and images of one batch exceed the free memory.

    Args:
        name: the flag that says how many images a batch has.
        numbers: float32 numbers of noise for each image.
        pixels: uint8 numbers of each image.

    The network's own memory is not counted.
    """
    needed, free = batch * (4 * numbers + pixels), free_memory(device)
    if needed > free:
        raise ValueError(
            f"{name} {batch}: their noise and images alone take {needed / 1e9:.3g} "
            f"GB, and {free / 1e9:.3g} GB are free on this {device.type}; make fewer at a time"
        )


def with_image_size(settings: dict, trained: Trained, codec) -> dict:
    """Return settings with `image_size`; raise `ValueError` unless network, codec and size fit."""
    channels, side, _ = trained.shape
    if codec.channels != channels:
        raise ValueError(
            f"--vae {settings['vae']}: its latents have {codec.channels} channels, the "
            f"checkpoint's {channels}"
        )
    settings = {**settings}
    settings.setdefault("image_size", side * codec.factor)
    if latent_size(settings["image_size"], codec) != side:
        raise ValueError(
            f"--image-size {settings['image_size']}: checkpoint {trained.path} makes images of "
            f"{side * codec.factor} pixels"
        )
    return settings
