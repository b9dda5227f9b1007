"""A row of the table of bad inputs: a command that must be refused, and what it must say."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

DIGITS = (
    "--model SiT-Ti/2 --dataset-name digits --image-size 8 --num-classes 10 --vae none "
    "--global-batch-size 8 --log-every 1 --num-workers 0 --sample-every 0 "
    "--results-dir {here}/results --run-name run"
)
CKPT = "{box}/run/checkpoints/0000004.pt"
TRAIN = f"train.py {DIGITS} --max-steps 1"
RESUME = f"train.py {DIGITS} --max-steps 6"
IMAGES = (
    "train.py --model SiT-Ti/2 --image-size 8 --num-classes 2 --vae none --global-batch-size 4 "
    "--max-steps 2 --log-every 1 --num-workers 0 --sample-every 0 --results-dir {here}/results"
)
LATENTS = IMAGES.replace("--vae none", "--vae {box}/vae").replace(
    "--image-size 8", "--image-size 16"
)
ODE = (
    f"sample_ddp.py ODE --ckpt {CKPT} --num-fid-samples 4 --per-proc-batch-size 4 "
    "--sampling-method euler --num-sampling-steps 2 --out {here}/samples.npz"
)
SDE = ODE.replace("ODE", "SDE").replace("euler", "Euler")
PIXELS = "-m evaluation {box}/samples.npz --ref digits --out {here}/a.metrics.json"
SCORE = "-m evaluation {box}/rgb.npz --ref {box}/rgb.npz --out {here}/a.metrics.json"
SCORE_PIXELS = f"{SCORE} --pixels"
REFERENCE = "-m evaluation reference {box}/rgb.npz -o {here}/ref.npz"
CACHE = (
    "scripts/cache_latents.py --data-path {box}/images --vae {box}/vae --image-size 16 "
    "--num-workers 0 --out {here}/latents"
)
FEATURES = (
    "scripts/cache_features.py --data-path {box}/images --image-size 16 --num-workers 0 "
    "--encoder vit_tiny_patch16_224 --encoder-weights {box}/vit.pth --out {here}/features"
)
SUGGEST = f"scripts/suggest_pair.py --ckpt {CKPT} --probe-samples 40 --out {{here}}/pairs.json"
PICTURE = (
    f"sample.py ODE --ckpt {CKPT} --classes 1 --sampling-method euler --num-sampling-steps 2 "
    "--out {here}/a.png"
)
BLOCKS = (
    f"-m evaluation blocks --ckpt {CKPT} --probes linear --samples 40 --num-workers 0 "
    "--times 0.9 --blocks 1 --out {here}/blocks"
)
SHARE = f"scripts/share.py {CKPT} --licence mit --out {{here}}/shared"
REPRODUCE = "scripts/reproduce.py run b2-vanilla --miniature --folder {here}/reproduce --dry-run"
CONVERT = f"scripts/convert_checkpoint.py {CKPT} {{here}}/weights.safetensors"


@dataclass(frozen=True)
class Row:
    """One launch.

    Args:
        name: unique; what is wrong.
        command: words; {here} is the launch's own folder, {box} the good files.
        says: a regular expression that standard error must hold, in the words of the check that
            the row is for, so that it fails without that check; None for a launch that succeeds.
        prepare: called with {here} and {box} before the launch.
        more: words that follow, which may hold spaces.
        warns: what standard error must hold of a launch that succeeds.
        environment: variables to set.
    """

    name: str
    command: str
    says: str | None
    prepare: Callable[[Path, Path], object] | None = None
    more: tuple[str, ...] = ()
    warns: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def words(self, here: Path, box: Path) -> list[str]:
        words = [*self.command.split(), *self.more]
        return [word.replace("{here}", str(here)).replace("{box}", str(box)) for word in words]
