"""REPA (Yu et al., arXiv 2410.06940): a block's tokens point to a pretrained encoder's.

    L = -mean over tokens of cos(MLP(z_k(x_t, t)), f(x))

f are the features that a frozen vision transformer gives for the patches of the clean image, on a
grid of as many patches as the network has tokens. The MLP has two hidden layers of width 2048; it
is trained, and not part of the network.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from data.batch import Batch
from data.feature_cache import CachedFeatures
from data.source_protocol import mirror
from layersync.alignment import sample_cosine
from layersync.capture import BlockRecorder
from models.encoders import PatchEncoder
from training.config import REPAConfig
from training.methods.heads import make_head
from training.objective import Regularizer

HIDDEN = 2048


class REPARegularizer(Regularizer):
    """Args:
    features: of a batch's images, mirrored where drawn: (N, T, `features.width`).
    seed: of the head's weights.
    """

    names = ("repa_loss",)

    def __init__(
        self,
        network: nn.Module,
        features: "EncodedPatches | CachedFeatures",
        config: REPAConfig,
        seed: int,
    ):
        self.features, self.config, self.depth = features, config, config.repa_depth
        self.recorder = BlockRecorder({self.depth: network.blocks[self.depth - 1]})
        self.head = make_head([network.pos_embed.shape[-1], HIDDEN, HIDDEN, features.width], seed)

    def capture(self) -> AbstractContextManager:
        return self.recorder.recording()

    def losses(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        (tokens,) = self.recorder.take()[self.depth]
        losses = -sample_cosine(self.head(tokens), self.features(batch))  # (N,)
        return self.config.repa_weight * losses, [losses.mean()]

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

    def __init__(
        self,
        encoder: PatchEncoder,
        mirrors: bool,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.encoder, self.mirrors, self.autocast = encoder, mirrors, autocast
        self.width = encoder.width

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        images = mirror(batch.images, batch.mirrored) if self.mirrors else batch.images
        with self.autocast():
            return self.encoder(images)  # (N, T, D)
