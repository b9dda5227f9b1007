"""Sweeps of pairs and of guidance: commands, grids and places to run that contradict themselves."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from hostile.altered_checkpoints import alter_checkpoint
from hostile.row import CKPT, Row

BASE = (
    "train.py --model SiT-Ti/2 --dataset-name digits --image-size 8 --num-classes 10 --vae none "
    "--global-batch-size 8 --max-steps 4 --ckpt-every 2 --sample-every 0 --num-workers 0"
)
SAMPLE = "sample_ddp.py ODE --sampling-method euler --num-sampling-steps 2 --num-fid-samples 32"
EVALUATE = "python -m evaluation --ref digits"
PAIRS = "scripts/sweep_layer_pairs.py run --folder {here}/sweep --seeds 0 --pairs [(2,5)] --dry-run"
ALL = PAIRS.replace("[(2,5)]", "all")
GUIDE = (
    f"scripts/guidance_sweep.py run --folder {{here}}/sweep --ckpt {CKPT} --scales 1 2 --dry-run"
)


def pairs(
    name: str,
    says: str | None,
    flags: str = "",
    *,
    words: str = PAIRS,
    base: str = BASE,
    sample: str = SAMPLE,
    evaluate: str = EVALUATE,
    prepare: Callable[[Path, Path], object] | None = None,
) -> Row:
    """A row of a sweep of pairs, which only plans: it would succeed if nothing were refused."""
    more = ("--base", base, "--sample", sample, "--evaluate", evaluate)
    return Row(f"pairs {name}", f"{words} {flags}", says, prepare, more)


def guide(
    name: str,
    says: str | None,
    flags: str = "",
    *,
    words: str = GUIDE,
    sample: str = SAMPLE,
    evaluate: str = EVALUATE,
    prepare: Callable[[Path, Path], object] | None = None,
) -> Row:
    """A row of a sweep of guidance, which only plans."""
    more = ("--sample", sample, "--evaluate", evaluate)
    return Row(f"guidance {name}", f"{words} {flags}", says, prepare, more)


SWEPT = {  # flags of train.py that the sweep sets itself
    "--encoder-depth 2": "the sweep sets", "--gt-encoder-depth 5": "the sweep sets",
    "--reg-weight 0.1": "the sweep sets", "--loss-type=vanilla": "the sweep sets",
    "--multi-blocks-match [(2,5)]": "the sweep sets", "--global_seed 1": "the sweep sets",
    "--results-dir a": "the sweep sets", "--run_name=a": "the sweep sets",
    "--resume latest": "the sweep sets", "--wandb-run-name a": "the sweep sets",
    "--epochs 3": "give --max-steps, the budget",
}  # fmt: skip
SAMPLED = {
    f"--ckpt {CKPT}": "each cell's", "--out a.npz": "in each cell's fo",
    "--sample_dir=a": "each cell's fo", "--global-seed 1": "each cell's, so that seeds",
}  # fmt: skip
GUIDED = {
    "--cfg-scale 2": "which the sweep sets from --scales",
    "--guidance-interval 0 1": "which the sweep sets from --intervals",
    f"--ckpt {CKPT}": "give it to the sweep, as --ckpt", "--out=a.npz": "in each cell's folder",
    "--sample-dir a": "each cell's folder",
}  # fmt: skip
EVALUATED = {"--out a.json": "in each cell's fo", "--results=a.csv": "in each cell's fo"}


def leave_out(flag: str, given: str, why: str) -> str:
    """Match the refusal of a flag that is set elsewhere."""
    name = given.replace("=", " ").split()[0].replace("_", "-")
    return rf"{flag}: leave out {name}, .*{why}"


def command_rows() -> Iterator[Row]:
    """Rows whose commands, in quotes, are not such as a sweep can run."""
    for given, why in SWEPT.items():
        yield pairs(f"base {given}", leave_out("--base", given, why), base=f"{BASE} {given}")
    for given, why in SAMPLED.items():
        says = leave_out("--sample", given, why)
        yield pairs(f"sample {given}", says, sample=f"{SAMPLE} {given}")
    for given, why in GUIDED.items():
        says = leave_out("--sample", given, why)
        yield guide(f"sample {given}", says, sample=f"{SAMPLE} {given}")
    for given, why in EVALUATED.items():
        says = leave_out("--evaluate", given, why)
        yield pairs(f"evaluate {given}", says, evaluate=f"{EVALUATE} {given}")
    whole = {"base": BASE, "sample": SAMPLE, "evaluate": EVALUATE}
    for name, command in whole.items():
        program = {"base": "train.py", "sample": "sample_ddp.py", "evaluate": "evaluation"}[name]
        for what, given, says in (
            ("quotes", f"{command} 'open", f"--{name}: .*check the quotes in"),
            ("of another program", f"python demo.py {command}", f"must be a command of {program}"),
            ("under torchrun", f"torchrun {command}", "--processes-per-cell sets torchrun's"),
            ("is empty", "", f"--{name} '': it must be a command of"),
            ("unknown flag", f"{command} --nope 1", rf"--{name}: .*does not take this .*--nope"),
            ("asks for help", f"{command} --help", rf"--{name}: .*: leave out --help"),
            ("config of no file", f"{command} --config {{here}}/n.toml", rf"--{name}: .*n\.toml"),
        ):
            yield pairs(f"{name} {what}", says, **{name: given})
    yield pairs("base without a budget", "--base: --max-steps is missing",
                base=BASE.replace("--max-steps 4", ""))  # fmt: skip
    yield pairs(
        "base of a checkpoint", "--base: --ckpt resumes one run", base=f"{BASE} --ckpt a.pt"
    )
    yield pairs("base contradicts itself", "--base: --keep-every has no effect without --keep-last",
                base=f"{BASE} --keep-every 2")  # fmt: skip
    yield pairs("base of no model", "--base: .*SiT-Ti/3: no such model",
                base=BASE.replace("Ti/2", "Ti/3"))  # fmt: skip
    yield pairs("all checkpoints, few kept", "--checkpoints all: leave out --keep-last",
                "--checkpoints all", base=f"{BASE} --keep-last 1")  # fmt: skip
    yield pairs("sample without a solver", "--sample: give ODE, SDE or --preset",
                sample="sample_ddp.py")  # fmt: skip
    yield pairs("sample unknown preset", "--sample: .*preset.*nope",
                sample="sample_ddp.py --preset nope")  # fmt: skip
    yield pairs("sample scale below 1", "--sample: .*does not take this command: --cfg-scale 0.5",
                sample=f"{SAMPLE} --cfg-scale 0.5")  # fmt: skip
    yield guide("sample of no images", "--sample: --num-fid-samples 0",
                sample=SAMPLE.replace("samples 32", "samples 0"))  # fmt: skip
    yield pairs("evaluate a model for nothing", "--evaluate: --dinov2-model is of no use without",
                evaluate=f"{EVALUATE} --dinov2-model vit")  # fmt: skip
    yield pairs("evaluate one resample", "--evaluate: --bootstrap 1: must be 0 or at least 2",
                evaluate=f"{EVALUATE} --bootstrap 1")  # fmt: skip
    none = EVALUATE.replace("digits", "{here}/none.npz")
    says = r"--evaluate: --ref \S*none\.npz: no such file or folder"
    yield pairs("evaluate against nothing", says, evaluate=none)
    yield guide("evaluate against nothing", says, evaluate=none)


def no_dropout(content: dict) -> None:
    """Make the network one that was trained without label dropout."""
    content["arch"]["class_dropout_prob"] = 0.0
    del content["opt"]
    for part in ("ema", "model"):
        name = "y_embedder.embedding_table.weight"
        content[part][name] = content[part][name][:10].clone()


def grid_rows() -> Iterator[Row]:
    """Rows whose grids are empty, or name what cannot be."""
    yield pairs("metric of others", "--metric fid: --evaluate gives pixel_frechet", "--metric fid")
    for text, says in {
        "[(5,2)]": "--pairs: .*5", "[(2,9)]": "--pairs: .*9", "[(0,5)]": "--pairs: .*0",
        "[(2,2)]": "--pairs: .*2", "[2,5]": "--pairs: ", "two": "--pairs: .*two", "[]": "--pairs: ",
    }.items():  # fmt: skip
        yield pairs(f"grid {text}", says, words=PAIRS.replace("[(2,5)]", text))
    for flags in ("--min-gap 2", "--exclude-first 1", "--exclude-last 0.2"):
        yield pairs(f"{flags} for nothing", f"{flags} has no effect without --pairs all", flags)
    for flags, says in {
        "--min-gap 0": "--min-gap 0: it must be at least 1",
        "--exclude-first -1": "--exclude-first -1: it must be at least 0",
        "--exclude-last 1": "--exclude-last 1.0: it must be a part of 1",
        "--exclude-last -0.1": "--exclude-last -0.1: it must be a part of 1",
        "--min-gap 8": "grid is empty: no pair of 8 blocks has --min-gap 8",
        "--exclude-first 4 --exclude-last 0.5": "grid is empty: no pair of 8 .*--exclude-last 0.5",
        "--seeds": "the grid is empty: --seeds names none",
        "--seeds -1": "--seeds -1: it must be at least 0",
        "--seeds 0 1 0": "--seeds 0 1 0: one is given twice",
        "--lambdas 0.1 0": "--lambdas 0.0: it must be finite and above 0",
        "--lambdas -0.1": "--lambdas -0.1: it must be finite and above 0",
        "--lambdas 0.1 0.1": "--lambdas 0.1 0.1: one is given twice",
    }.items():
        yield pairs(flags, says, flags, words=ALL)
    for flags, says in {
        "--scales": "--scales: none is given, so there is nothing to sample",
        "--scales 0.5": "--scales 0.5: each must be at least 1",
        "--intervals": "--intervals: none is given, so there is nothing to sample",
        "--intervals 0.3": "--intervals 0.3: write LOW:HIGH",
        "--intervals a:b": "--intervals a:b: write LOW:HIGH",
        "--intervals 0:0.5:1": "--intervals 0:0.5:1: write LOW:HIGH",
        "--intervals 0.5:0.2": "--intervals 0.5:0.2: it must be two times LOW < HIGH",
        "--intervals 0:2": "--intervals 0:2: it must be two times LOW < HIGH",
        "--intervals nan:1": "--intervals nan:1: it must be two times LOW < HIGH",
        "--metrics fid pixel_recall": "--metrics fid: --evaluate gives pixel_frechet",
    }.items():
        yield guide(flags, says, flags)
    yield guide("no checkpoint", r"none\.pt", words=GUIDE.replace(CKPT, "{here}/none.pt"))
    yield guide("without a null label", r"--scales 2: \S*altered.pt was trained without label drop",
                words=GUIDE.replace(CKPT, "{here}/altered.pt"),
                prepare=alter_checkpoint(no_dropout))  # fmt: skip
    unguided = GUIDE.replace(CKPT, "{here}/altered.pt").replace("--scales 1 2", "--scales 1")
    yield guide("good, without a null label", None, words=unguided,
                prepare=alter_checkpoint(no_dropout))  # fmt: skip
    yield pairs("good plan", None)


def place_rows() -> Iterator[Row]:
    """Rows of places to run that are not there, or of flags that act elsewhere."""
    nodes = "--cluster slurm --nodes 2"
    for flags, says in {
        "--parallel 0": "--parallel 0: it must be at least 1",
        "--processes-per-cell 0": "--processes-per-cell 0: it must be at least 1",
        "--partition fast": "--partition fast has no effect without --cluster slurm",
        "--hours 3": "--hours 3.0 has no effect without --cluster slurm",
        "--nodes 2": "--nodes 2 has no effect without --cluster slurm",
        "--cluster local --nodes 2": "--nodes 2 has no effect without --cluster slurm",
        "--cluster local --gpus-per-node 2": "--gpus-per-node 2 has no effect without --nodes",
        "--cluster local --hours 0.05": "--hours 0.05: it must be more than the 5 minutes",
        "--cluster local --gpus-per-process -1": "--gpus-per-process -1: it must be at least 0",
        "--cluster local --cpus-per-process 0": "--cpus-per-process 0: it must be at least 1",
        "--cluster local --sbatch qos": "--sbatch qos: write NAME=VALUE",
        "--cluster slurm --nodes 0": "--nodes 0: it must be at least 1",
        f"{nodes} --gpus-per-node -1": "--gpus-per-node -1: it must be at least 0",
        f"{nodes} --gpus-per-process 2": "--gpus-per-process 2 has no effect with --nodes",
        f"{nodes} --cpus-per-process 2": "--cpus-per-process 2 has no effect with --nodes",
        nodes: "--nodes 2: start this from",
    }.items():
        yield pairs(flags, says, flags)
    here = pairs("on a cluster from elsewhere", "--cluster slurm: there is no sbatch here",
                 "--cluster slurm")  # fmt: skip
    yield replace(here, environment={"PATH": "/none"})


def sweep_command_rows() -> list[Row]:
    return [*command_rows(), *grid_rows(), *place_rows()]
