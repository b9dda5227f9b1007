"""Make a folder of a checkpoint that others can use, and publish it on the Hugging Face hub.

    python scripts/share.py results/RUN/checkpoints/0400000.pt --licence mit --out shared/my-sit
    python scripts/share.py results/RUN/checkpoints/best.pt --licence mit \\
        --metrics samples/NAME.metrics.json --picture sample.png --push-to-hub ORG/NAME

The folder holds model.safetensors, config.json and the page README.md. `SiT.from_pretrained(NAME)`
and `--ckpt NAME` of every command take the folder's name, or ORG/NAME.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.command import parse_command, usage_errors
from runtime.files import check_file, check_folder_writable, write_json, write_text
from runtime.outcome import finished


@dataclass(frozen=True)
class Sharing:
    source: Annotated[str, tyro.conf.Positional]
    """checkpoint to share"""
    licence: Annotated[str, tyro.conf.arg(aliases=["--license"])]
    """licence of the weights, as the hub spells it: mit, cc-by-nc-4.0, other"""
    out: str | None = None
    """folder to make; shared/NAME of the name on the hub or of the checkpoint's run unless given"""
    weights: Literal["ema", "model"] = "ema"
    """which weights, where the checkpoint has both"""
    metrics: tuple[str, ...] = ()
    """records of python -m evaluation (NAME.metrics.json) of samples of these weights, for the
    page"""
    picture: str | None = None
    """.png of samples for the page"""
    push_to_hub: str | None = None
    """ORG/NAME to publish it under; `hf auth login` or HF_TOKEN says who you are"""
    private: bool = False
    """make a new repository there a private one"""


def folder_of(c: Sharing) -> Path:
    """Return the folder to make; `ValueError` if it holds something else or cannot be written."""
    from runtime.hub import WEIGHTS

    path = Path(c.source).resolve()
    run = path.parent.parent if path.parent.name == "checkpoints" else path.with_suffix("")
    name = c.push_to_hub.split("/")[-1] if c.push_to_hub else f"{run.name}-{path.stem}"
    folder = Path(c.out or f"shared/{name}")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / WEIGHTS).exists():
        raise ValueError(f"--out {folder}: it holds other files; give a folder of its own")
    check_folder_writable(folder, f"--out {folder}")
    return folder


def check_sharing(c: Sharing) -> None:
    """Refuse what is wrong before the checkpoint is read; `ValueError` names the flag."""
    from runtime.hub import check_push

    if not c.licence.strip():
        raise ValueError("--licence '': name the licence, as mit or other")
    if c.private and not c.push_to_hub:
        raise ValueError("--private has no effect without --push-to-hub ORG/NAME")
    if c.picture:
        check_file(c.picture, f"--picture {c.picture}")
        if not c.picture.endswith(".png"):
            raise ValueError(f"--picture {c.picture}: the name must end in .png")
        check_png(c.picture)
    if c.push_to_hub:
        check_push(c.push_to_hub)


def check_png(path: str) -> None:
    """Raise `ValueError` unless the file is a whole PNG."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"--picture {path}: not a readable .png ({error})") from None


def share(c: Sharing) -> Path:
    """Write the folder and, if asked, publish it; returns the folder."""
    check_sharing(c)
    folder = folder_of(c)

    from models.safetensors_file import write_safetensors
    from models.trained import load_trained
    from runtime.files import write_bytes
    from runtime.hub import WEIGHTS, push
    from scripts.sharing.model_card import Card, read_record, without_places, write_card

    trained = load_trained(c.source, c.weights)
    count = len(trained.model.state_dict())  # reads all of them: whole, and finite
    trained = replace(trained, settings=without_places(trained.settings))
    records = [read_record(path, trained) for path in c.metrics]
    name = c.push_to_hub or str(folder)
    picture = "samples.png" if c.picture else None
    card = Card(trained, name, c.licence, records, picture)
    page = write_card(card)
    about = {
        "model": trained.arch,
        "training": card.settings,
        "step": trained.step,
        "weights": trained.kind,
        "time_reversed": trained.reversed_time,
        "weights_sha256": trained.weights_sha256,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, trained)
    write_json(folder / "config.json", about)
    if c.picture and picture:
        write_bytes(folder / picture, Path(c.picture).read_bytes())
    write_text(folder / "README.md", page)
    size = (folder / WEIGHTS).stat().st_size / 1e6
    print(f"{folder}: {trained.arch['name']}, {count} tensors, {size:.1f} MB", flush=True)
    if c.push_to_hub:
        print(f"published: {push(folder, c.push_to_hub, c.private)}")
    return folder


def main() -> None:
    config = parse_command(Sharing)
    with usage_errors():
        share(config)
    finished()


if __name__ == "__main__":
    main()
