"""A sampling run: everything loaded and checked, then this process's share of the images."""

import hashlib
import json
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import layersync
from data.latents import weights_fingerprint
from models import find_model, load_codec
from models.checkpoint_file import read_checkpoint
from models.codecs import latent_size
from models.trained import hash_weights, load_weights, reversed_time, weights_of
from models.zoo import describe_weights
from runtime.command import RunError
from runtime.png import save_grid
from runtime.processes import choose_device
from runtime.randomness import image_streams
from sampling.labels import balanced_labels, random_labels
from sampling.network import Network, prepare_model
from sampling.parts import SampleParts
from sampling.sample_config import ODE, SDE, check_sample_config, solver_settings
from sampling.solver import is_sde, make_solver, solved_interval
from sampling.stored import resolve, stored_settings
from transport import Guidance, Sampler, create_transport
from transport.likelihood import bits_per_dimension
from transport.reversed_time import ReversedTime

OFFICIAL_NAME = "SiT-XL-2-256x256.pt"  # what SiT calls its published weights
PREVIEW = 64  # images in the picture beside the .npz
POLL_SECONDS = 0.5


class Sampling:
    """A sampling run of one process: everything loaded and checked, nothing sampled yet."""

    def __init__(self, config: ODE | SDE):
        check_sample_config(config)
        self.config, self.device = config, choose_device()
        torch.backends.cuda.matmul.allow_tf32 = config.tf32
        torch.backends.cudnn.allow_tf32 = config.tf32

        path = config.ckpt or OFFICIAL_NAME
        checkpoint = read_checkpoint(path, mmap=True)  # the optimizer stays on disk
        weights, stored = weights_of(checkpoint, path, config.weights), stored_settings(checkpoint)
        classes = config.num_classes or (stored or {}).get("num_classes")
        arch = describe_weights(weights, classes, f"checkpoint {path}")
        settings = resolve(config, arch, stored)
        turned = reversed_time(checkpoint)
        self.codec = load_codec(settings["vae"], self.device, arch["in_channels"])
        if self.codec.channels != arch["in_channels"]:
            raise ValueError(
                f"--vae {settings['vae']}: its latents have {self.codec.channels} channels, the "
                f"checkpoint's {arch['in_channels']}"
            )
        image_size = settings.setdefault("image_size", arch["input_size"] * self.codec.factor)
        if latent_size(image_size, self.codec) != arch["input_size"]:
            raise ValueError(
                f"--image-size {image_size}: checkpoint {path} makes images of "
                f"{arch['input_size'] * self.codec.factor} pixels"
            )
        self.shape = arch["in_channels"], arch["input_size"], arch["input_size"]
        sizes = {key: value for key, value in arch.items() if key != "name"}
        model = find_model(arch["name"])(**sizes)
        load_weights(model, weights, path)
        model = prepare_model(model.to(self.device).eval(), config.bf16, config.compile)
        self.network = Network(ReversedTime(model) if turned else model, config.bf16)
        channels = None if config.cfg_channels == "all" else int(config.cfg_channels)
        scale, interval = config.cfg_scale, config.guidance_interval
        self.guided = Guidance(self.network, scale, channels, interval)
        keys = "path_type", "prediction", "sample_eps"
        self.sampler = Sampler(create_transport(**{key: settings[key] for key in keys}))
        self.sample = make_solver(self.sampler, config)
        self.recipe = self.describe(settings, arch, weights, checkpoint.get("step"))
        self.parts = SampleParts(
            self.out(arch["name"], checkpoint.get("step")),
            self.recipe,
            config.num_fid_samples,
            config.per_proc_batch_size,
            (image_size, image_size, self.codec.image_channels),
            config.save_png,
        )

    def describe(self, settings: dict, arch: dict, weights: dict, step: int | None) -> dict:
        """Everything that determines the samples, and nothing else: no times, no processes."""
        c = self.config
        return {
            "weights_sha256": hash_weights(weights),
            "weights": c.weights,
            "step": step,
            **settings,
            "vae": self.codec.name,
            "vae_fingerprint": self.codec_fingerprint(),
            "solver": solver_settings(c),
            "solved_interval": solved_interval(self.sampler, c),
            "cfg_scale": c.cfg_scale,
            "cfg_channels": c.cfg_channels,
            "guidance_interval": c.guidance_interval,
            "seed": c.global_seed,
            "label_sampling": c.label_sampling,
            "num_samples": c.num_fid_samples,
            "batch_size": c.per_proc_batch_size,
            "dtype": self.dtype(),
            "compiled": c.compile,
            "device": self.device.type,
            "versions": {"layersync": layersync.__version__, "torch": torch.__version__}
            | {name: version(name) for name in ("numpy", "torchdiffeq", "diffusers")},
        }

    def codec_fingerprint(self) -> str | None:
        """Of the autoencoder's weights; None without one."""
        return weights_fingerprint(self.codec.vae) if hasattr(self.codec, "vae") else None

    def dtype(self) -> str:
        if self.config.bf16:
            return "bfloat16 (autocast)"
        tf32 = self.config.tf32 and self.device.type == "cuda"
        return "float32 (TF32 products)" if tf32 else "float32"

    def out(self, model: str, step: int | None) -> Path:
        c = self.config
        if c.out:
            return Path(c.out)
        name = f"{model.replace('/', '-')}-{'official' if step is None else f'{step:07d}'}"
        name += f"-{type(c).__name__}-{c.sampling_method}-{c.num_sampling_steps}"
        name += f"-cfg{c.cfg_scale:g}-seed{c.global_seed}"
        # what else makes the samples, and above all which run the weights are of
        digest = hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()
        return Path(c.sample_dir) / f"{name}-{digest[:8]}.npz"

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
            columns["bits_per_dim"] = self.bits_per_dimension(latents, labels, streams)
        images = self.codec.decode(latents).cpu().numpy()
        return images, {name: column.cpu().numpy() for name, column in columns.items()}

    def bits_per_dimension(self, latents, labels, streams) -> torch.Tensor:
        c = self.config
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
        progress = tqdm(
            desc=parts.out.stem,
            initial=parts.images_finished(),
            total=parts.count,
            unit="image",
            disable=rank > 0,
            mininterval=1,
            miniters=0,  # a batch may take minutes: its evaluations are shown as they come
            smoothing=0,
        )

        def show(evaluations: int) -> None:
            progress.set_postfix(nfe=evaluations, refresh=False)
            progress.update(0)

        self.network.on_evaluation = show
        for k in range(rank, parts.batches, world_size):
            if not parts.finished(k):
                images, columns = self.batch(k)
                parts.write(k, images, **columns)
                progress.update(parts.images_finished() - progress.n)
        while rank == 0 and progress.n < parts.count:
            time.sleep(POLL_SECONDS)
            progress.update(parts.images_finished() - progress.n)
        progress.close()
        if rank == 0:
            save_grid(parts.head(PREVIEW), parts.out.with_suffix(".png"))
            recipe = parts.assemble()
            print(f"{parts.out}: {parts.count} images, NFE {recipe['nfe']['mean']:g}")
