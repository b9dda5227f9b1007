"""Train a SiT with velocity matching and, unless --loss-type vanilla, LayerSync.

    torchrun --nproc_per_node=8 train.py --model SiT-XL/2 --data-path /path/to/imagenet/train
    torchrun --nproc_per_node=2 train.py --model SiT-Ti/2 --dataset-name digits --image-size 8 \\
        --num-classes 10 --vae none --global-batch-size 128 --epochs 40 --lr 1e-3
    python train.py ...                  # one process, CPU or GPU
    ... --resume latest                  # the same command again continues where it was

    L = mean of [ |model(x_t, t, y) - (x_1 - x_0)|^2  -  lambda cos(z_k, stopgrad(z_k')) ]

(LayerSync, arXiv 2510.12581, on SiT, arXiv 2401.08740). What a step draws is a function of the
seed, the step and the position in the global batch: resuming is exact, and the number of
processes changes nothing but float rounding.
"""

from training.config import TrainConfig, check_train_config, layer_sync_settings
from training.launch import parse_command, usage_errors

if __name__ == "__main__":
    CONFIG = parse_command(TrainConfig)  # before torch is loaded: --help and typos answer at once

import dataclasses
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from layersync import LayerSync
from models import find_model, load_codec
from models.codecs import latent_size
from training.checkpoint import load_weights, read_checkpoint, save_checkpoint, weights_of
from training.data import StepBatches, batch_shard, load_source, make_loader
from training.images import save_grid
from training.preview import preview
from training.randomness import step_streams
from training.runs import find_checkpoint, read_start, run_folder
from training.tracking import Meter, RunLog
from transport import create_transport


class Training:
    """Everything a run consists of, checked and at its first step."""

    def __init__(self, config: TrainConfig):
        check_train_config(config)
        pairs, self.weight = layer_sync_settings(config)
        self.config, self.folder = config, run_folder(config, pairs, self.weight)
        start = find_checkpoint(config, self.folder)
        self.transport = create_transport(**dataclasses.asdict(config.transport))
        self.accelerator = start_accelerator(config, self.folder)
        ranks = self.accelerator.process_index, self.accelerator.num_processes
        self.shard = batch_shard(config.global_batch_size, *ranks)
        self.source = load_source(config)
        self.codec = load_codec(config.vae, self.accelerator.device, self.source.channels)

        self.arch = dict(
            name=config.model,
            input_size=latent_size(config.image_size, self.codec),
            in_channels=self.codec.channels,
            num_classes=config.num_classes,
        )
        self.model = build_network(self.arch, config.global_seed)
        self.sync = LayerSync(self.model.blocks, pairs) if pairs else None
        state = read_start(config, self.arch, len(self.source), start) if start else None
        if state:
            load_weights(self.model, state["model"], start)
        elif config.fine_tune:
            load_weights(
                self.model, weights_of(read_checkpoint(config.ckpt), config.ckpt), config.ckpt
            )
        self.ema = deepcopy(self.model).eval().requires_grad_(False).to(self.accelerator.device)
        self.update_ema = get_ema_multi_avg_fn(config.ema_decay)

        params = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(params, lr=config.lr, weight_decay=0.0, fused=True)
        self.network = self.model  # without wrappers: what is saved, averaged and captured
        self.model, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        if state:
            load_weights(self.ema, state["ema"], start)
            self.optimizer.load_state_dict(state["opt"])

        names = ["loss", "velocity_loss", "grad_norm"]
        if self.sync:
            names += ["sync_loss", *(f"similarity_{s}_{t}" for s, t in self.sync.pairs)]
        self.meter = Meter(self.accelerator, names, state and state["meter"])
        self.steps_per_epoch = len(self.source) // config.global_batch_size
        self.last_step = min(config.epochs * self.steps_per_epoch, config.max_steps or 10**12)
        self.step = state["step"] if state else 0
        self.log = RunLog(self.accelerator, self.folder, config, self.step)

    def run(self) -> None:
        config, log_every = self.config, self.config.log_every
        batches = StepBatches(
            len(self.source),
            config.global_batch_size,
            config.global_seed,
            self.step,
            self.last_step,
            self.shard,
        )
        progress = tqdm(
            make_loader(self.source, batches, config.num_workers),
            initial=self.step,
            total=self.last_step,
            desc=self.folder.name,
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        self.model.train()
        for images, labels in progress:
            self.meter.add(self.train_step(images, labels))
            self.step += 1
            if self.step % log_every == 0:
                values = {**self.meter.averages(), "lr": config.lr}
                self.log.write(self.step, values)
                progress.set_postfix(loss=f"{values['loss']:.4f}")
            if self.step % config.ckpt_every == 0 or self.step == self.last_step:
                self.save()
            if config.sample_every and self.step % config.sample_every == 0:
                self.draw_samples()
        self.log.close()

    def train_step(self, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        """One optimizer step; returns the values of `meter`, averages over this process's share."""
        device = self.accelerator.device
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        draws = step_streams(self.config.global_seed, self.step, self.shard, device)
        mirrored = draws.uniform() < 0.5
        dropped = draws.uniform() < self.network.class_dropout_prob
        t = self.transport.training_times(draws.uniform())  # (N,)
        if self.source.mirrors:
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        x_1 = self.codec.encode(images, draws.normal)  # (N, C, H, W)
        x_0 = draws.normal(x_1.shape[1:])

        with self.sync.capture() if self.sync else nullcontext():
            conditions = dict(y=labels, force_drop_ids=dropped)
            velocity_losses = self.transport.training_losses(
                self.model, x_1, conditions, t=t, x0=x_0
            )["loss"]  # (N,)
        losses = velocity_losses
        if self.sync:
            sync_losses = self.sync.loss(reduction="none")  # (N,)
            losses = velocity_losses + self.weight * sync_losses if self.weight else losses
        loss = losses.mean()

        self.accelerator.backward(loss)
        params = [p for p in self.network.parameters() if p.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm([p.grad for p in params])
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.update_ema(list(self.ema.parameters()), list(self.network.parameters()), None)

        values = [loss, velocity_losses.mean(), grad_norm]
        if self.sync:
            values += [sync_losses.mean(), *self.sync.similarity_tensors().values()]
        return values

    def save(self) -> None:
        meter = self.meter.fold()
        if self.accelerator.is_main_process:
            state = dict(
                model=self.network.state_dict(),
                ema=self.ema.state_dict(),
                opt=self.optimizer.state_dict(),
                step=self.step,
                config=dataclasses.asdict(self.config),
                arch=self.arch,
                codec=self.codec.name,
                data_length=len(self.source),
                meter=meter,
            )
            save_checkpoint(self.folder / "checkpoints" / f"{self.step:07d}.pt", state)

    def draw_samples(self) -> None:
        if self.accelerator.is_main_process:
            shape = self.arch["in_channels"], self.arch["input_size"], self.arch["input_size"]
            images = preview(
                self.ema,
                self.codec,
                self.transport,
                shape,
                self.config.global_seed,
                self.config.cfg_scale,
                self.accelerator.device,
            )
            save_grid(images, self.folder / "samples" / f"{self.step:07d}.png")


def build_network(arch: dict, seed: int) -> torch.nn.Module:
    """The network that `arch` describes, its initial weights drawn from `seed`."""
    torch.manual_seed(seed)
    sizes = {key: value for key, value in arch.items() if key != "name"}
    return find_model(arch["name"])(**sizes)


def start_accelerator(config: TrainConfig, folder: Path) -> Accelerator:
    """Join the process group that torchrun describes, or run alone; CUDA if there is any."""
    torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        log_with=["tensorboard", *(["wandb"] if config.wandb else [])],
        project_dir=folder,
    )


def announce(training: Training) -> None:
    """Say what is about to run, once."""
    if not training.accelerator.is_main_process:
        return
    count = sum(p.numel() for p in training.network.parameters())
    print(f"{training.config.model}: {count / 1e6:.1f}M parameters, {len(training.source)} images")
    if training.sync:
        pairs = ", ".join(f"blocks[{s - 1}] -> blocks[{t - 1}]" for s, t in training.sync.pairs)
        effect = f"lambda {training.weight}" if training.weight else "logged only"
        print(f"LayerSync: {pairs} (outputs of blocks), {effect}")
    print(
        f"steps {training.step} to {training.last_step}, results in {training.folder}", flush=True
    )


def main(config: TrainConfig) -> None:
    with usage_errors():
        training = Training(config)
    announce(training)
    training.run()


if __name__ == "__main__":
    main(CONFIG)
