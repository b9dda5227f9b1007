"""Benchmark of sampling: the cost of solver and guidance beyond the network's evaluations."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from models import SiT, find_model
from runtime.randomness import image_streams
from sampling.network import Network, prepare_model
from sampling.sample_config import ODE, SDE
from sampling.solver import is_sde, make_solver
from scripts.benchmarks.timing import DEVICE, alternate, compiled_or_not, ratio, set_precision
from transport import Guidance, Sampler, create_transport

LATENTS = (4, 32, 32)
SCALE, INTERVAL = 1.5, (0.3, 1.0)  # SiT's scale, REPA's interval
COLUMNS = dict(
    model="", batch="", precision="", compiled="", solver="", guidance="", nfe="d", passes="d",
    images_per_second=".3g", overhead=".1%", network_ms=".4g", solver_ms=".3g", time_ratio=".2f",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A solver with few steps: its cost per step does not depend on their number."""

    solver: str
    config: ODE | SDE
    guidance: str = "none"
    settings: dict = field(default_factory=dict)  # of Guidance


EULER = ODE(sampling_method="euler", num_sampling_steps=3)
CASES = (
    Case("ODE euler", EULER),
    Case("ODE euler", EULER, f"{SCALE:g}", dict(scale=SCALE)),
    Case("ODE euler", EULER, f"{SCALE:g} on [{INTERVAL[0]:g}, {INTERVAL[1]:g}]",
         dict(scale=SCALE, interval=INTERVAL)),
    Case("ODE heun2", ODE(sampling_method="heun2", num_sampling_steps=2)),
    Case("ODE dopri5", ODE(sampling_method="dopri5", atol=1.0, rtol=1.0)),
    Case("SDE Euler", SDE(sampling_method="Euler", num_sampling_steps=2)),
)  # fmt: skip


class Costless:
    """A network that takes no time, to measure the solver and the arithmetic of guidance."""

    null_label = 1000
    forward_with_cfg = SiT.forward_with_cfg

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x


class Runs:
    """One network, whose samples are made by each case's solver."""

    def __init__(self, name: str, batch: int, precision: str, compiled: bool):
        set_precision(precision)
        torch.manual_seed(0)
        with DEVICE:
            model = find_model(name)(input_size=LATENTS[1]).eval().requires_grad_(False)
        torch.nn.init.normal_(model.final_layer.linear.weight, std=0.02)  # 0: nothing to solve
        bf16 = precision == "bf16"
        self.network = Network(prepare_model(model, bf16, compiled), bf16)
        self.costless = Network(Costless())
        self.streams = image_streams(0, range(batch), DEVICE)
        self.y, self.z = self.streams.integers(1000), self.streams.normal(LATENTS)
        self.sampler = Sampler(create_transport())

    def sample(self, case: Case, network: Network | None = None) -> torch.Tensor:
        guided = Guidance(network or self.network, **{"scale": 1.0, **case.settings})
        noise = {"noise": lambda step: self.streams.normal(LATENTS)} if is_sde(case.config) else {}
        return make_solver(self.sampler, case.config)(self.z, guided, y=self.y, **noise)[-1]

    def solver_seconds(self, case: Case, repeats: int) -> float:
        """Return the solver's seconds per evaluation: the median of runs without a network."""
        times = alternate({"": lambda: self.sample(case, self.costless)}, repeats)[""]
        self.costless.reset()
        self.sample(case, self.costless)
        return statistics.median(times) / self.costless.evaluations

    def evaluations(self, case: Case) -> tuple[int, int]:
        """Return (evaluations, passes) of one run."""
        self.network.reset()
        self.sample(case)
        return self.network.evaluations, self.network.passes

    @torch.no_grad()
    def bare(self, evaluations: int, passes: int) -> None:
        """Run as many evaluations of the network alone; a guided one has twice the batch."""
        guided = passes - evaluations
        for copies, count in ((1, evaluations - guided), (2, guided)):
            x, y = self.z.repeat(copies, 1, 1, 1), self.y.repeat(copies)
            t = torch.full_like(y, 0.5, dtype=x.dtype)
            with self.network.autocast(x):
                for _ in range(count):
                    self.network.model(x, t, y)


def measure(name: str, batch: int, precision: str, compiled: bool, repeats: int) -> list[dict]:
    """Return a row for each case; a case's run and its bare evaluations alternate in time."""
    runs = Runs(name, batch, precision, compiled)
    works: dict[tuple[int, str], Callable] = {}
    counts = [runs.evaluations(case) for case in CASES]  # compiles and warms up, too
    for i, (case, count) in enumerate(zip(CASES, counts, strict=True)):
        works[i, "sampler"] = lambda case=case: runs.sample(case)
        works[i, "bare"] = lambda count=count: runs.bare(*count)
    times, rows = alternate(works, repeats, warmup=0), []
    for i, (case, (evaluations, passes)) in enumerate(zip(CASES, counts, strict=True)):
        sampler, bare = times[i, "sampler"], times[i, "bare"]
        row = dict(
            model=name, batch=batch, precision=precision, compiled="yes" if compiled else "no",
            solver=case.solver, guidance=case.guidance, nfe=evaluations, passes=passes,
            images_per_second=batch / statistics.median(sampler),
            overhead=ratio(sampler, bare) - 1,
            network_ms=1e3 * statistics.median(bare) / evaluations,
            solver_ms=1e3 * runs.solver_seconds(case, repeats),
            seconds=sampler, bare_seconds=bare,
        )  # fmt: skip
        if case.settings:
            row["time_ratio"] = ratio(sampler, times[0, "sampler"])
        rows.append(row)
    return rows


def run(c, precisions) -> list[dict]:
    cells = [(m, b, p, k) for m, b in c.sizes("sampling_models") for p in precisions
             for k in compiled_or_not(c)]  # fmt: skip
    rows = []
    for name, batch, precision, compiles in tqdm(cells, desc="sampling", unit="cell"):
        torch.compiler.reset()
        rows += measure(name, batch, precision, compiles, c.repeats)
    return rows
