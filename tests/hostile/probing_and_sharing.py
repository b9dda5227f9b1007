"""Pictures of classes, probes of blocks, shared folders, the paper's rows: bad flags and files."""

import json
from pathlib import Path

from hostile.altered_checkpoints import NAN, alter_checkpoint
from hostile.bad_flags import bad_numbers, numbers
from hostile.row import BLOCKS, CKPT, PICTURE, REPRODUCE, SHARE, Row


def write(name: str, content: bytes):
    def prepare(here: Path, box: Path) -> None:
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(content)

    return prepare


def photo(here: Path, box: Path) -> None:
    (here / "a.png").write_bytes((box / "images" / "pear" / "1.png").read_bytes())


def nan_weights(content: dict) -> None:
    for weights in (content["ema"], content["model"]):
        name = "final_layer.linear.weight"
        weights[name] = weights[name] * NAN  # the tensor itself belongs to all rows


def probing_rows() -> list[Row]:
    """Rows whose flags are wrong, or whose outputs are somebody's."""
    from evaluation.blocks.blocks_config import BlocksConfig
    from sampling.picture_config import PictureODE
    from sampling.solver_config import ODESolver

    shared = tuple(name for name, *_ in numbers(ODESolver))
    report = "scripts/reproduce.py report"
    return [
        *bad_numbers("picture", PictureODE, PICTURE, skip=(*shared, "seed=-1")),
        *(row for row in bad_numbers("blocks", BlocksConfig, BLOCKS) if row.name.endswith("-1")),
        Row("picture out of another kind", PICTURE.replace("a.png", "a.jpg"), "--out"),
        Row("picture over a photo", PICTURE, r"--out .*a\.png", photo),
        Row("picture over a folder", PICTURE, r"a\.png", lambda h, b: (h / "a.png").mkdir()),
        Row("picture below a file", PICTURE.replace("a.png", "f/a.png"), "--out", write("f", b"")),
        Row("picture class 10 of 10", PICTURE.replace("--classes 1", "--classes 10"),
            "--classes 10"),
        Row("picture no checkpoint", PICTURE.replace(CKPT, "{here}/none.pt"), r"none\.pt"),
        Row("picture unknown preset", f"{PICTURE} --preset nope", "preset.*nope|nope.*preset"),
        Row("blocks of no checkpoint", BLOCKS.replace(CKPT, "{here}/none.pt"), r"none\.pt"),
        Row("blocks unknown probe", BLOCKS.replace("linear", "squared"), "squared"),
        Row("blocks 99", BLOCKS.replace("--blocks 1", "--blocks 99"), "--blocks 99"),
        Row("blocks time twice", BLOCKS.replace("--times 0.9", "--times 0.9 0.9"), "--times"),
        Row("blocks names for others", f"{BLOCKS} --names a b", "--names a b"),
        Row("blocks without masks", BLOCKS.replace("linear", "segmentation"), "--masks"),
        Row("blocks without an encoder", BLOCKS.replace("linear", "cka"), "--encoder"),
        Row("blocks encoder for nothing", f"{BLOCKS} --encoder vit_tiny", "--encoder"),
        Row("blocks no held-out data", f"{BLOCKS} --val-data-path {{here}}/none", "val-data-path"),
        Row("blocks out is a file", BLOCKS, "blocks", write("blocks", b"mine")),
        Row("share no licence", SHARE.replace("mit", "''"), "--licence", more=("--licence", "")),
        Row("share private alone", f"{SHARE} --private", "--private"),
        Row("share no checkpoint", SHARE.replace(CKPT, "{here}/none.pt"), r"none\.pt"),
        Row("share no picture", f"{SHARE} --picture {{here}}/none.png", r"--picture .*none\.png"),
        Row("share a text as a picture", f"{SHARE} --picture {{box}}/vae/config.json",
            "--picture .*the name must end in .png"),
        Row("share no metrics", f"{SHARE} --metrics {{here}}/none.json", r"--metrics .*none\.json"),
        Row("share under no name", f"{SHARE} --push-to-hub a/b/c", "a/b/c: it must be ORG/NAME"),
        Row("share into a run", SHARE.replace("{here}/shared", "{box}/run"), "--out"),
        Row("share into a file", SHARE, "--out", write("shared", b"mine")),
        Row("reproduce unknown row", REPRODUCE.replace("b2-vanilla", "b2-vanila"), "did you mean"),
        Row("reproduce no row", REPRODUCE.replace("b2-vanilla ", ""), "name a row"),
        Row("reproduce pattern of none", REPRODUCE.replace("b2-vanilla", "z*"), "no such row"),
        Row("reproduce no processes", f"{REPRODUCE} --processes 0", "--processes"),
        Row("reproduce nothing in parallel", f"{REPRODUCE} --parallel -1", "--parallel"),
        Row("reproduce seed -1", f"{REPRODUCE} --seeds -1", "--seed"),
        Row("reproduce no data", REPRODUCE.replace("--miniature ", ""), "--data-path|--ref"),
        Row("reproduce no such data", REPRODUCE.replace("--miniature", "--data-path {here}/none"),
            "--data-path|--ref"),
        Row("reproduce bad flags added", f"{REPRODUCE} --train=--nope", "--nope"),
        Row("reproduce into a file", REPRODUCE.replace(" --dry-run", ""), "reproduce",
            write("reproduce", b"mine")),
        Row("reproduce report of nothing", f"{report} {{here}}/none", "none"),
    ]  # fmt: skip


def altered_probing_rows() -> list[Row]:
    """Rows whose files were altered."""
    changed = {name: words.replace(CKPT, "{here}/altered.pt") for name, words in
               {"picture": PICTURE, "blocks": BLOCKS, "share": SHARE}.items()}  # fmt: skip
    rows = []
    for name, words in changed.items():
        rows += [
            Row(f"{name}: NaN weights", words, "holds NaN or inf", alter_checkpoint(nan_weights)),
            Row(f"{name}: checkpoint is a text", words, "altered", write("altered.pt", b"text")),
            Row(f"{name}: checkpoint is empty", words, "altered", write("altered.pt", b"")),
        ]  # fmt: skip
    for what, content in {"cut": b"{", "a list": b"[1]", "of a wrong type": b'{"version": "x"}',
                          "empty": b"", "NUL bytes": bytes(9)}.items():  # fmt: skip
        rows.append(Row(f"blocks: the record is {what}", BLOCKS, r"blocks\.json",
                        write("blocks/blocks.json", content)))  # fmt: skip
        rows.append(Row(f"reproduce: the sweep is {what}",
                        "scripts/reproduce.py report {here}/sweep", r"sweep\.json",
                        write("sweep/sweep.json", content)))  # fmt: skip
    picture = f"{SHARE} --picture {{here}}/a.png"
    metrics = f"{SHARE} --metrics {{here}}/m.json"
    other = json.dumps({"fid": 1.0, "recipe": {"weights_sha256": "0" * 64}}).encode()
    return [
        *rows,
        Row("share: the picture is empty", picture, r"--picture .*a\.png", write("a.png", b"")),
        Row("share: the picture is a text", picture, r"--picture .*a\.png", write("a.png", b"x")),
        Row("share: metrics are cut", metrics, r"--metrics .*m\.json", write("m.json", b"{")),
        Row("share: metrics are a list", metrics, r"--metrics .*m\.json", write("m.json", b"[]")),
        Row("share: metrics of others", metrics, r"--metrics .*m\.json", write("m.json", other)),
        Row("good picture", PICTURE, None),
        Row("good share", SHARE, None),
    ]
