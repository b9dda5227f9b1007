"""A sampling run: everything loaded and checked, then this process's share of the images."""

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from models import load_codec
from models.codecs import latent_size
from models.trained import Trained
from runtime.command import RunError
from runtime.memory import free_memory
from runtime.png import save_grid
from runtime.processes import choose_device
from runtime.progress import Progress
from runtime.randomness import image_streams
from sampling.checkpoint_settings import open_checkpoint
from sampling.labels import balanced_labels, random_labels
from sampling.network import Network, prepare_model
from sampling.parts import SampleParts
from sampling.recipe import make_recipe, output_path
from sampling.sample_config import ODE, SDE, check_sample_config
from sampling.solver import is_sde, make_solver, solved_interval
from transport import Guidance, Sampler, create_transport
from transport.likelihood import bits_per_dimension

PREVIEW = 64  # images in the picture beside the .npz
POLL_SECONDS = 0.5


class Sampling:
    """A sampling run of one process: everything loaded and checked, nothing sampled yet.

    Raises `ValueError` for settings that contradict each other, the checkpoint or the codec.
    """

    def __init__(self, config: ODE | SDE):
        check_sample_config(config)
        self.config, self.device = config, choose_device()
        torch.backends.cuda.matmul.allow_tf32 = config.tf32
        torch.backends.cudnn.allow_tf32 = config.tf32
        trained, settings = open_checkpoint(config)
        self.codec = load_codec(settings["vae"], self.device, trained.arch["in_channels"])
        settings = with_image_size(settings, trained, self.codec)
        self.shape = trained.shape
        image_shape = (*2 * (settings["image_size"],), self.codec.image_channels)
        sizes = math.prod(self.shape), math.prod(image_shape)
        check_batch_fits(config.per_proc_batch_size, *sizes, self.device)
        prepare_model(trained.model.to(self.device), config.bf16, config.compile)
        self.network = Network(trained.network, config.bf16)
        channels = None if config.cfg_channels == "all" else int(config.cfg_channels)
        self.guided = Guidance(self.network, config.cfg_scale, channels, config.guidance_interval)
        keys = "path_type", "prediction", "sample_eps"
        self.sampler = Sampler(create_transport(**{key: settings[key] for key in keys}))
        self.sample = make_solver(self.sampler, config)
        interval = solved_interval(self.sampler, config)
        self.recipe = make_recipe(config, trained, settings, self.codec, interval, self.device)
        self.parts = SampleParts(
            out=output_path(config, self.recipe),
            recipe=self.recipe,
            count=config.num_fid_samples,
            batch=config.per_proc_batch_size,
            image_shape=image_shape,
            save_png=config.save_png,
        )

    def batch(self, k: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Images of batch k and, per image, label, number of function evaluations, likelihood."""
        c, size = self.config, self.config.per_proc_batch_size
        numbers = range(k * size, (k + 1) * size)
        streams = image_streams(c.global_seed, numbers, self.device)
        classes = self.recipe["num_classes"]
        labels = random_labels(streams, classes)  # drawn in any case: the noise comes after it
        if c.label_sampling == "balanced":
            labels = balanced_labels(c.global_seed, numbers, classes).to(self.device)
        z = streams.normal(self.shape)  # (N, C, H, W)
        extra = {"noise": lambda step: streams.normal(self.shape)} if is_sde(c) else {}
        self.network.reset()
        latents = self.sample(z, self.guided, y=labels, **extra)[-1]
        if not latents.isfinite().all():
            raise RunError(
                f"images {numbers[0]} to {numbers[-1]}: the solver gave NaN or infinity; look at "
                f"the weights, and at --cfg-scale and --bf16 if given"
            )
        columns = {
            "labels": labels,
            "nfe": torch.full((size,), self.network.evaluations),
            "network_passes": torch.full((size,), self.network.passes),
        }
        if isinstance(c, ODE) and c.likelihood:
            columns["bits_per_dim"] = self.bits_per_dimension(c, latents, labels, streams)
        images = self.codec.decode(latents).cpu().numpy()
        return images, {name: column.cpu().numpy() for name, column in columns.items()}

    def bits_per_dimension(self, c: ODE, latents, labels, streams) -> torch.Tensor:
        """Likelihood of latents (N, C, H, W) under the flow, (N,) in bits per dimension."""
        evaluate = self.sampler.sample_ode_likelihood(
            sampling_method=c.sampling_method,
            num_steps=c.num_sampling_steps,
            atol=c.atol,
            rtol=c.rtol,
        )
        probe = streams.normal(self.shape).sign()
        log_density, _ = evaluate(latents, self.guided, probe=probe, y=labels)
        return bits_per_dimension(log_density, latents[0].numel())

    def run(self, rank: int, world_size: int) -> None:
        """Sample this process's batches; the first process then waits for all and assembles."""
        parts = self.parts
        if rank > 0:
            self.sample_batches(rank, world_size, lambda: None)
            return
        there, name = parts.images_finished(), parts.out.stem
        with Progress(name, parts.count, "image", initial=there) as progress:

            def show(evaluations: int) -> None:  # a batch may take minutes
                progress.update(0, f"{evaluations} evaluations")

            self.network.on_evaluation = show
            self.sample_batches(rank, world_size, lambda: progress.reach(parts.images_finished()))
            while progress.done < parts.count:
                time.sleep(POLL_SECONDS)
                progress.reach(parts.images_finished())
            save_grid(parts.head(PREVIEW), parts.preview)
            progress.say(f"picture {parts.preview}")
            recipe = parts.assemble()
            progress.say(f"{parts.out}: {parts.count} images, NFE {recipe['nfe']['mean']:g}")

    def sample_batches(self, rank: int, world_size: int, written: Callable[[], None]) -> None:
        """Sample the batches of a process that are not there; `written()` after each."""
        parts = self.parts
        for k in range(rank, parts.batches, world_size):
            if parts.finished(k):
                parts.write_pictures(k)
                continue
            images, columns = self.batch(k)
            parts.write_pictures(k, images)
            parts.write(k, images, **columns)
            written()

    def finish_pictures(self, rank: int, world_size: int) -> None:
        """Write this process's share of the pictures of a set that is finished already."""
        if self.parts.pictures:
            self.parts.pictures.prepare()
            for k in range(rank, self.parts.batches, world_size):
                self.parts.write_pictures(k)


def check_batch_fits(batch: int, numbers: int, pixels: int, device: torch.device) -> None:
    """`ValueError` when the noise and the images of one batch exceed the memory that is free.

    Args:
        numbers: float32 numbers of noise for each image.
        pixels: uint8 numbers of each image.

    What the network needs besides is not estimated.
    """
    needed, free = batch * (4 * numbers + pixels), free_memory(device)
    if needed > free:
        raise ValueError(
            f"--per-proc-batch-size {batch}: its noise and images alone take {needed / 1e9:.3g} "
            f"GB, and {free / 1e9:.3g} GB are free on this {device.type}; give a smaller one"
        )


def with_image_size(settings: dict, trained: Trained, codec) -> dict:
    """The settings with `image_size`; `ValueError` unless network, codec and size fit together."""
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
