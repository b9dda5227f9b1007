"""LayerSync in the training loop: lambda times minus the cosine of paired blocks (paper, Eq. 4)."""

from contextlib import AbstractContextManager

from torch import Tensor, nn

from layersync import LayerSync
from training.objective import Batch


class LayerSyncRegularizer:
    """Adds `weight * L_sync`; with weight 0 the similarity is only logged."""

    head = None

    def __init__(self, network: nn.Module, pairs: list[tuple[int, int]], weight: float):
        self.sync, self.weight = LayerSync(network.blocks, pairs), weight
        self.names = ["sync_loss", *(f"similarity_{s}_{t}" for s, t in self.sync.pairs)]

    def capture(self) -> AbstractContextManager:
        return self.sync.capture()

    def losses(self, batch: Batch) -> tuple[Tensor | None, list[Tensor]]:
        losses = self.sync.loss(reduction="none")  # (N,)
        logged = [losses.mean(), *self.sync.similarity_tensors().values()]
        return self.weight * losses if self.weight else None, logged

    def announcement(self) -> str:
        pairs = ", ".join(f"blocks[{s - 1}] -> blocks[{t - 1}]" for s, t in self.sync.pairs)
        effect = f"lambda {self.weight}" if self.weight else "logged only"
        return f"LayerSync: {pairs} (outputs of blocks), {effect}"
