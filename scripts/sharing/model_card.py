"""The page of a shared checkpoint: what was trained on what, how it is used, what it scored.

Everything in it comes from the checkpoint and from records of `python -m evaluation`; what they do
not tell is not in it.
"""

from dataclasses import dataclass, field
from pathlib import Path

from evaluation.results import is_record, title_and_digits
from models.trained import Trained
from runtime.schema import check_value, read_json
from training.settings_record import resolved_settings, restore

IMAGENET = "imagenet-1k"
NAMED_BY_PLACE = ("data_path", "vae")  # of which the last part says what it is
PLACES = (
    "results_dir", "run_name", "resume", "ckpt", "cache_dir", "val_data_path", "eval_ref",
    "eval_inception_weights", "repa_features", "repa_encoder_weights", "wandb", "wandb_run_name",
)  # fmt: skip
TAGS = ["sit", "flow-matching", "diffusion", "class-conditional-image-generation"]
RECIPE: dict[str, type] = {  # what the page says of how samples were made
    "num_samples": int, "solver": dict, "nfe": dict, "cfg_scale": float, "label_sampling": str,
    "seed": int, "weights": str, "dtype": str,
}  # fmt: skip
SOLVER: dict[str, type] = {"solver": str, "sampling_method": str, "num_sampling_steps": int}
SETTINGS = {  # row of the table: settings, by the names of their flags
    "classes": ("num_classes",),
    "image size": ("image_size",),
    "codec (`--vae`)": ("vae",),
    "path, prediction": ("path_type", "prediction"),
    "loss (`--loss-type`)": ("loss_type",),
    "pairs, student -> teacher": ("pairs",),
    "lambda": ("reg_weight",),
    "samples per step": ("global_batch_size",),
    "AdamW: learning rate, weight decay, betas": ("lr", "weight_decay", "betas"),
    "decay of the average": ("ema_decay",),
    "precision": ("precision",),
    "seed": ("global_seed",),
}


@dataclass(frozen=True)
class Card:
    """Content of the page.

    Args:
        trained: the checkpoint.
        name: how it is called where it is used: ORG/NAME, or a folder.
        licence: as the hub spells it.
        records: of evaluations of its samples.
        picture: file name of a picture of samples beside the page, if there is one.
    """

    trained: Trained
    name: str
    licence: str
    records: list[dict] = field(default_factory=list)
    picture: str | None = None

    @property
    def short_name(self) -> str:
        return self.name.rstrip("/").split("/")[-1]

    @property
    def settings(self) -> dict:
        """The run's settings as they were in force, flat; of other projects' what they tell."""
        stored = self.trained.settings
        if "loss_type" in stored:
            return resolved_settings(restore(stored))
        return {key: value for key, value in stored.items() if not isinstance(value, dict)} | {
            key: value for key, value in stored.get("transport", {}).items() if value is not None
        }


def without_places(settings: dict) -> dict:
    """Return nested settings without where things lie on the machine of the run."""
    kept: dict = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            kept[key] = without_places(value)
        elif key in NAMED_BY_PLACE and value is not None:
            kept[key] = Path(value).name if Path(value).is_absolute() else value
        elif key not in PLACES:
            kept[key] = value
    return kept


def read_record(path: str, trained: Trained) -> dict:
    """Read NAME.metrics.json; `ValueError` unless it scores samples of these weights."""
    if not Path(path).is_file() or not is_record(Path(path)):
        raise ValueError(f"--metrics {path}: no record of python -m evaluation")
    record = read_json(path)
    recipe = record.get("recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("weights_sha256"), str):
        raise ValueError(f"--metrics {path}: it does not tell which weights its samples are of")
    if recipe["weights_sha256"] != trained.weights_sha256:
        raise ValueError(
            f"--metrics {path}: of the weights {recipe['weights_sha256'][:12]}..., the "
            f"{trained.kind} of {trained.path} is {trained.weights_sha256[:12]}...; give scores of "
            f"its own samples"
        )
    try:
        check_record(record)
    except ValueError as error:
        raise ValueError(f"--metrics {path}: altered or incomplete: {error}") from None
    return record


def check_record(record: dict) -> None:
    """Raise `ValueError` unless the page can tell these scores and how samples were made."""
    recipe = record["recipe"]
    for name, value in record["metrics"].items():
        if type(value) not in (int, float):
            raise ValueError(f"its score {name} is {str(value)[:60]!r}")
    for name, kind in RECIPE.items():
        check_value(f"its recipe's {name}", recipe.get(name), kind)
    for name, kind in SOLVER.items():
        check_value(f"its solver's {name}", recipe["solver"].get(name), kind)
    check_value("its recipe's mean nfe", recipe["nfe"].get("mean"), float)


def write_card(card: Card) -> str:
    """Return the page as Markdown, with the hub's description on top."""
    arch, trained = card.trained.arch, card.trained
    count = sum(w.numel() for key, w in trained.weights.items() if key != "pos_embed")
    steps = "" if trained.step is None else f" after {trained.step:,} steps"
    average = "the moving average of its weights" if trained.kind == "ema" else "its weights"
    parts = [
        front_matter(card),
        f"# {card.short_name}",
        f"A class-conditional {arch['name']} ({count / 1e6:.1f}M parameters) that was trained by "
        f"{target(card)}{with_method(card)}{steps}: {average}, in `model.safetensors`.",
    ]
    if card.picture:
        parts.append(f"![Samples]({card.picture})")
    parts += [usage(card), training(card), evaluation(card), licence(card)]
    return "\n\n".join(parts) + "\n"


def target(card: Card) -> str:
    prediction = card.settings.get("prediction", "velocity")
    return "noise prediction" if prediction == "noise" else f"{prediction} matching"


def with_method(card: Card) -> str:
    settings = card.settings
    loss = settings.get("loss_type", "vanilla")
    if loss == "vanilla":
        return ""
    if loss in ("layer_sync", "multiple_sync"):
        return f" with LayerSync ({settings['pairs']}, lambda {settings['reg_weight']:g})"
    return f" and {loss}"


def front_matter(card: Card) -> str:
    """Return the hub's description of a model: licence, data, tags, scores."""
    from huggingface_hub import EvalResult, ModelCardData

    settings, data = card.settings, None
    if "dataset_name" in settings or not settings.get("data_path"):
        data = settings.get("dataset_name", IMAGENET if settings.get("loss_type") else None)
    name = data_name(card)
    scores = [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type=data or "other",
            dataset_name=name,
            metric_type=metric,
            metric_name=f"{title_and_digits(metric)[0]} ({protocol(record)})",
            metric_value=value,
        )
        for record in card.records
        for metric, value in record["metrics"].items()
    ]
    tags = TAGS + ["layersync"] * ("sync" in str(settings.get("loss_type")))
    about = ModelCardData(
        license=card.licence,
        tags=tags,
        datasets=["ILSVRC/imagenet-1k"] if data == IMAGENET else None,
        model_name=card.short_name if scores else None,
        eval_results=scores or None,
    )
    return f"---\n{about.to_yaml()}\n---"


def data_name(card: Card) -> str:
    settings = card.settings
    return str(
        settings.get("dataset_name")
        or Path(settings.get("data_path", "")).name
        or (IMAGENET if settings.get("loss_type") else "unknown")
    )


def usage(card: Card) -> str:
    return f"""## Use

```python
from models import SiT

model = SiT.from_pretrained("{card.name}")  # model(x, t, y); t = 0 is noise, t = 1 is data
```

```bash
python sample.py --ckpt {card.name}
torchrun --nproc_per_node=8 sample_ddp.py ODE --ckpt {card.name} --num-fid-samples 50000
```"""


def training(card: Card) -> str:
    settings, step = card.settings, card.trained.step
    rows = {"data": data_name(card)} if settings else {}
    if step is not None:
        rows["steps"] = f"{step:,}"
        if "global_batch_size" in settings:
            rows["images seen"] = f"{step * settings['global_batch_size']:,}"
    for title, names in SETTINGS.items():
        values = [str(settings[name]) for name in names if settings.get(name) not in (None, "")]
        if values and not (title == "lambda" and not settings.get("pairs")):
            rows[title] = ", ".join(values)
    table = [f"| {title} | {value} |" for title, value in rows.items()]
    note = "" if rows else "\n\nThe checkpoint does not tell how it was trained."
    head = ["| | |", "|---|---|"] if rows else []
    return "\n".join(["## Training", "", *head, *table]) + note


def evaluation(card: Card) -> str:
    """Return the scores with the protocol that each of them needs to be compared."""
    if not card.records:
        return "## Evaluation\n\nNot evaluated."
    parts = ["## Evaluation"]
    for record in card.records:
        lines = ["| | |", "|---|---|"]
        for metric, value in record["metrics"].items():
            title, digits = title_and_digits(metric)
            lines.append(f"| {title} | {value:.{digits}f} |")
        parts += ["\n".join(lines), f"Protocol: {protocol(record)}."]
        parts += [record["note"]] if record.get("note") else []
    return "\n\n".join(parts)


def protocol(record: dict) -> str:
    """Say how samples were made and what they were compared with, in one line."""
    recipe, reference = record["recipe"], record.get("reference") or {}
    solver = recipe["solver"]
    guidance = "no guidance"
    if recipe["cfg_scale"] != 1:
        guidance = f"guidance {recipe['cfg_scale']:g} of {recipe['cfg_channels']} channels"
        if recipe.get("guidance_interval"):
            guidance += " at t in [{:g}, {:g}]".format(*recipe["guidance_interval"])
    words = [
        f"{recipe['num_samples']:,} samples",
        f"{solver['sampling_method']} {solver['solver']} of {solver['num_sampling_steps']} points, "
        f"NFE {recipe['nfe']['mean']:g}",
        guidance,
        f"{recipe['label_sampling']} labels",
        f"seed {recipe['seed']}",
        f"{recipe['weights']} weights, {recipe['dtype']}",
    ]
    if reference.get("path"):
        digest = f", SHA-256 {reference['sha256'][:12]}" if reference.get("sha256") else ""
        words.append(f"reference {Path(reference['path']).name}{digest}")
    return "; ".join(words)


def licence(card: Card) -> str:
    return f"""## Licence

{card.licence}

## Method

LayerSync: [arXiv 2510.12581](https://arxiv.org/abs/2510.12581); SiT:
[arXiv 2401.08740](https://arxiv.org/abs/2401.08740). SHA-256 over names and values of the weights,
as records of samples have it: `{card.trained.weights_sha256}`."""
