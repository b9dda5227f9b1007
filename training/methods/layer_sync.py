"""LayerSync in the training loop: lambda times minus the cosine of paired blocks (paper, Eq. 4)."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from torch import Tensor, nn

from data.batch import Batch
from layersync import LayerSync
from training.config import RegScheduleConfig
from training.methods.schedule import SimilarityStop, weight_at
from training.objective import Regularizer


class LayerSyncRegularizer(Regularizer):
    """Adds lambda L_sync to samples whose t is in `schedule.reg_t_range`.

    Args:
        weight: lambda; 0 to log the similarity and change nothing.
        schedule: how lambda changes until `last_step`.
        reduce: the mean of a tensor over all processes.
    """

    def __init__(
        self,
        network: nn.Module,
        pairs: list[tuple[int, int]],
        weight: float,
        schedule: RegScheduleConfig,
        last_step: int,
        reduce: Callable[[Tensor], Tensor],
    ):
        self.sync, self.weight = LayerSync(network.blocks, pairs), weight
        self.schedule, self.last_step = schedule, last_step
        device = next(network.parameters()).device
        stops = weight and schedule.reg_similarity_threshold is not None
        self.stop = SimilarityStop(schedule, reduce, device) if stops else None
        self.names = ["sync_loss", *(f"similarity_{s}_{t}" for s, t in self.sync.pairs)]
        self.varies = weight and schedule != RegScheduleConfig(reg_t_range=schedule.reg_t_range)
        if self.varies:
            self.names.append("reg_weight")

    def capture(self) -> AbstractContextManager:
        return self.sync.capture()

    def losses(self, batch: Batch) -> tuple[Tensor | None, list[Tensor]]:
        losses = self.sync.loss(reduction="none")  # (N,)
        logged = [losses.mean(), *self.sync.similarity_tensors().values()]
        if not self.weight:
            return None, logged
        weight = weight_at(self.schedule, self.weight, batch.step, self.last_step)
        if self.stop:
            weight = (weight * self.stop.active).to(losses.dtype)
        if self.varies:
            logged.append(losses.new_ones(()) * weight)
        low, high = self.schedule.reg_t_range
        if (low, high) != (0, 1):
            losses = losses * ((batch.t >= low) & (batch.t <= high))
        return weight * losses, logged

    def finish_step(self, logged: list[Tensor]) -> None:
        if self.stop:
            self.stop.update(-logged[0])

    def state(self) -> dict[str, Tensor]:
        return {"similarity_stop": self.stop.state.cpu()} if self.stop else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if self.stop:
            self.stop.state = state["similarity_stop"].to(self.stop.state.device)

    def announcement(self) -> str:
        pairs = ", ".join(f"blocks[{s - 1}] -> blocks[{t - 1}]" for s, t in self.sync.pairs)
        effect = f"lambda {self.weight}" if self.weight else "logged only"
        if self.varies:
            effect += f", {self.schedule.reg_scheduler} schedule"
        return f"LayerSync: {pairs} (outputs of blocks), {effect}"
