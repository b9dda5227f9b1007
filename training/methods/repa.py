"""REPA (Yu et al., arXiv 2410.06940): a block's tokens point to a pretrained encoder's.

    L = -mean over tokens of cos(MLP(z_k(x_t, t)), f(x))

f are the features that a frozen vision transformer gives for the patches of the clean image, on a
grid of as many patches as the network has tokens. The MLP has two hidden layers of width 2048; it
is trained, and not part of the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from models.sizes import family
from runtime.flags import free, require
from training.methods.method import (
    Materials,
    Method,
    Regularizer,
    Setting,
    as_given,
    block_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from data.batch import Batch
    from data.feature_cache import CachedFeatures
    from data.latents import LatentSource
    from data.source_protocol import NamedSource
    from models import SiT
    from models.encoders import PatchEncoder
    from training.config import TrainConfig
    from training.step_draws import Read

HIDDEN = 2048
FEATURES = "repa_features"  # in Batch.extra
# 4 for B and 8 for L and XL, as its authors say; S takes B's. Ti is of no paper.
REPA_DEPTHS = {"XL": 8, "L": 8, "B": 4, "S": 4, "Ti": 3}


@dataclass(frozen=True)
class REPAConfig(Method):
    """--loss-type repa, and repa+layer_sync."""

    repa_weight: float = 0.5
    """weight of REPA"""
    repa_depth: int | None = None
    """block that is aligned, counted from 1; the paper's for the model unless given"""
    repa_encoder: str = "vit_base_patch14_dinov2.lvd142m"
    """the encoder of clean images, by timm's name"""
    repa_encoder_weights: str | None = free(None)
    """a file with its weights; they are downloaded once unless given"""
    repa_features: str | None = free(None)
    """a folder of its features that scripts/cache_features.py made; unless given, each step
    encodes its images"""

    trains_head = True

    def check(self, c: TrainConfig) -> None:
        require(self, "repa_weight", self.repa_weight > 0, "positive")
        if self.repa_features and self.repa_encoder_weights:
            raise ValueError(
                "--repa-encoder-weights has no effect with --repa-features: they were encoded "
                "already"
            )
        if self.repa_features and c.streaming:
            raise ValueError(
                "--repa-features: streamed images have no numbers to find their features by; "
                "leave out --repa-features or --streaming"
            )

    def depth(self, model: str) -> int:
        return block_number("repa_depth", self.repa_depth, REPA_DEPTHS[family(model)], model)

    def folder_parts(self, model: str) -> list[str]:
        return [f"{self.depth(model)}", f"lambda{self.repa_weight:g}"]

    def resolved(self, model: str) -> dict[str, Setting]:
        return {"repa_depth": self.depth(model)}

    def make(self, given: Materials) -> Regularizer:
        depth = self.depth(given.config.model)
        features = cached_features(given) if self.repa_features else encoded_patches(given)
        return REPARegularizer(
            given.network, features, depth, self, given.head_seed, given.compiled
        )


class REPARegularizer(Regularizer):
    """Adds minus the cosine between a block's tokens, through a head, and the features.

    Args:
        features: of a batch's images, mirrored where drawn: (N, T, `features.width`).
        depth: the block, counted from 1.
        seed: of the head's weights.
        compiled: compiles a function or a module, or leaves it as it is.
    """

    name = "repa_loss"
    head: nn.Module

    def __init__(
        self,
        network: SiT,
        features: EncodedPatches | ReadFeatures,
        depth: int,
        config: REPAConfig,
        seed: int,
        compiled: Callable = as_given,
    ):
        from layersync.alignment import sample_cosine
        from layersync.capture import BlockRecorder
        from training.methods.heads import make_head

        self.features, self.config, self.depth = features, config, depth
        self.reads = features.reads
        self.recorder = BlockRecorder({depth: network.blocks[depth - 1]})
        width = network.pos_embed.shape[-1]
        self.head = compiled(make_head([width, HIDDEN, HIDDEN, features.width], seed))
        self.cosine = compiled(sample_cosine)

    def capture(self) -> AbstractContextManager:
        return self.recorder.recording()

    def losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (tokens,) = self.recorder.take()[self.depth]
        losses = -self.cosine(self.head(tokens), self.features(batch))  # (N,)
        return self.config.repa_weight * losses, {self.name: losses.mean()}

    def announcement(self) -> str:
        c, count = self.config, sum(p.numel() for p in self.head.parameters())
        return (
            f"REPA: blocks[{self.depth - 1}] (output) -> {c.repa_encoder}, "
            f"lambda {c.repa_weight:g}, a head of {count / 1e6:.2f}M parameters"
        )


class EncodedPatches:
    """Features of a batch, encoded in each step.

    Args:
        mirrors: whether the data is mirrored at all.
        autocast: a context manager for the encoder's pass.
    """

    reads: ClassVar[dict[str, Read]] = {}

    def __init__(
        self,
        encoder: PatchEncoder,
        mirrors: bool,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.encoder, self.mirrors, self.autocast = encoder, mirrors, autocast
        self.width = encoder.width

    def __call__(self, batch: Batch) -> Tensor:
        """Compute (N, T, D), without gradient."""
        import torch

        from data.source_protocol import mirror

        images = mirror(batch.images, batch.mirrored) if self.mirrors else batch.images
        with torch.no_grad(), self.autocast():
            return self.encoder(images)


class ReadFeatures:
    """Features of a batch, which the loader's workers read from a cache."""

    def __init__(self, cache: CachedFeatures):
        self.width, self.reads = cache.width, {FEATURES: cache}

    def __call__(self, batch: Batch) -> Tensor:
        """Return (N, T, D), float16."""
        return batch.extra[FEATURES]


def encoded_patches(given: Materials) -> EncodedPatches:
    """Make the encoder, for as many patches as the network has tokens."""
    from models.encoders import PatchEncoder

    c, source = given.config, given.source
    if source.latents:
        raise ValueError(
            f"--loss-type {c.loss_type}: --data-path {c.data_path} holds latents, and "
            f"REPA's encoder sees images; give --repa-features FOLDER, made of the same images by "
            f"scripts/cache_features.py, or the images themselves"
        )
    network = (given.load_encoder or pretrained_encoder)(c.repa)
    try:
        encoder = PatchEncoder(network, given.network.x_embedder.grid_size[0])
    except AttributeError as error:
        raise ValueError(f"--repa-encoder {c.repa.repa_encoder}: {error}") from None
    device, autocast = given.accelerator.device, given.accelerator.autocast
    return EncodedPatches(encoder.to(device), source.mirrors, autocast)


def pretrained_encoder(c: REPAConfig) -> nn.Module:
    from models.encoders import load_vision_transformer

    return load_vision_transformer(
        c.repa_encoder, c.repa_encoder_weights, "--repa-encoder", "--repa-encoder-weights"
    )


def cached_features(given: Materials) -> ReadFeatures:
    """Open a cache of features that was made of the run's images."""
    from data.feature_cache import CachedFeatures, data_of

    c, source = given.config, given.source
    expected = dict(
        encoder=c.repa.repa_encoder,
        image_size=c.known_size,
        side=given.network.x_embedder.grid_size[0],
        **data_of(cast("LatentSource | NamedSource", source)),
    )
    assert c.repa.repa_features is not None
    return ReadFeatures(CachedFeatures(c.repa.repa_features, expected, source.mirrors))
