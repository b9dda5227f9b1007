"""Checkpoints that were altered after they were written, each met by the check that it is for."""

import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from hostile.row import CKPT, ODE, RESUME, SUGGEST, Row

GOOD = CKPT.removeprefix("{box}/")
ALTERED = "{here}/altered.pt"
NAN = float("nan")


@cache
def good_content(box: Path) -> dict:
    return torch.load(box / GOOD, weights_only=True)


def copy_of(value):
    """Dicts and lists anew, with the same tensors."""
    if isinstance(value, dict):
        return {key: copy_of(item) for key, item in value.items()}
    return [copy_of(item) for item in value] if isinstance(value, list) else value


def alter_checkpoint(change: Callable[[dict], object]):
    """Prepare altered.pt: the good checkpoint with `change` made to its content."""

    def prepare(here: Path, box: Path) -> None:
        content = copy_of(good_content(box))
        other = change(content)
        torch.save(content if other is None else other, here / "altered.pt")

    return prepare


def put(*keys_and_value) -> Callable[[dict], None]:
    """A change: content[key][key]... = value."""
    *keys, last, value = keys_and_value

    def change(content: dict) -> None:
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def drop(*keys) -> Callable[[dict], None]:
    """A change: del content[key][key]..."""
    *path, last = keys

    def change(content: dict) -> None:
        for key in path:
            content = content[key]
        del content[last]

    return change


def scale(part: str, factor: float) -> Callable[[dict], None]:
    """A change: every tensor of a state dict times `factor`."""

    def change(content: dict) -> None:
        content[part] = {key: value * factor for key, value in content[part].items()}

    return change


def one_weight(part: str, value: Callable[[torch.Tensor], object]) -> Callable[[dict], None]:
    """A change to one tensor of a state dict."""

    def change(content: dict) -> None:
        content[part]["blocks.0.attn.qkv.weight"] = value(content[part]["blocks.0.attn.qkv.weight"])

    return change


def one_row(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda weight: weight.index_fill(0, torch.tensor(3), value)


def first_moment(value: Callable[[torch.Tensor], object]) -> Callable[[dict], None]:
    """A change to one moment estimate of the optimizer."""

    def change(content: dict) -> None:
        state = next(iter(content["opt"]["state"].values()))
        state["exp_avg"] = value(state["exp_avg"])

    return change


def one_more_in_both(content: dict) -> None:
    for part in ("model", "ema"):
        content[part]["extra"] = torch.zeros(2)


WHOLE = "a whole number of at least"
PARTS = {  # what continuing needs: a value that is not its, and what is said of it
    "model": ("many", "its model is 'many', it must be a state dict"),
    "ema": ([1, 2], "its ema is list, it must be a state dict"),
    "opt": (None, "its opt is None, it must be an optimizer's state"),
    "config": (3.5, "its config is 3.5, it must be a dict"),
    "arch": ([1, 2], "its arch is list, it must be a dict"),
    "meter": ("many", "its meter is 'many', it must be a dict"),
    "step": ("many", f"its step is 'many', it must be {WHOLE} 0"),
    "data_length": (3.5, f"its data_length is 3.5, it must be {WHOLE} 1"),
    "last_step": (None, f"its last_step is None, it must be {WHOLE} 1"),
    "regularizers": ("many", "its regularizers is 'many', it must be a list"),
}
FLOATS = "it must be a tensor of floating-point numbers"
OTHER_NETWORK = "is of another run; network: "
CHANGES = {
    "step is negative": (put("step", -3), f"its step is -3, it must be {WHOLE} 0"),
    "step is a flag": (put("step", True), f"its step is True, it must be {WHOLE} 0"),
    "step is beyond counting": (put("step", 10**16), "its step is 10000000000000000"),
    "data length is another": (put("data_length", 5), "images in the data: 5 there"),
    "data list is a number": (put("data_list", 3.5), "its data_list is 3.5, it must be a text"),
    "meter without sums": (drop("meter", "sums"), "it must be the sums and their count"),
    "meter has too few sums": (put("meter", "sums", [0.0]), "its meter has 1 sums, this run logs"),
    "meter has a text": (put("meter", "sums", ["a"]), "it must be a list of finite numbers"),
    "meter has a NaN": (put("meter", "sums", [NAN]), "it must be a list of finite numbers"),
    "meter counts a text": (put("meter", "count", "many"), "its meter count is 'many'"),
    "arch without a name": (drop("arch", "name"), "it must be complete, it lacks name"),
    "arch has a number for a name": (put("arch", "name", 7), "its arch name is 7, it must be a te"),
    "arch has a number for a truth": (put("arch", "learn_sigma", 7), "it must be true or false"),
    "arch has another name": (put("arch", "name", "SiT-XL/2"), OTHER_NETWORK),
    "arch has a huge size": (put("arch", "input_size", 10**9), OTHER_NETWORK),
    "arch has a text for a size": (put("arch", "num_classes", "ten"), "its arch num_classes is 't"),
    "optimizer without groups": (drop("opt", "param_groups"), "it must be an optimizer's state"),
    "optimizer has a text": (put("opt", "state", "many"), "its opt state is 'many', it must"),
    "optimizer has groups of text": (put("opt", "param_groups", ["many"]), "must be a list of"),
    "optimizer has a state of text": (
        lambda content: content["opt"]["state"].update({"pos_embed": "many"}),
        "its opt state pos_embed is 'many', it must be a dict",
    ),
    "optimizer lacks a state": (
        lambda content: content["opt"]["state"].popitem() and None,
        "its optimizer has no state of final_layer",
    ),
    "moment is NaN": (first_moment(lambda moment: moment * NAN), "exp_avg holds NaN or infinity"),
    "moment has another shape": (
        first_moment(lambda moment: torch.zeros(2, 2)), "it must be a tensor as large as its weigh"
    ),
    "moment is a text": (first_moment(lambda moment: "many"), "is 'many', it must be a t"),
    "regularizers are one too few": (put("regularizers", []), "has the states of 0 regularis"),
    "regularizers have a text": (
        put("regularizers", [{"similarity_stop": "many"}]), "similarity_stop is 'many', it must be"
    ),
    "model is NaN": (scale("model", NAN), "model.pos_embed holds NaN or infinity"),
    "model is infinite": (scale("model", float("inf")), "model.pos_embed holds NaN or infinity"),
    "model has one NaN": (one_weight("model", one_row(NAN)), "qkv.weight holds NaN or infinity"),
    "model without a tensor": (
        drop("model", "blocks.0.attn.qkv.weight"), "is in one of its model and ema, and not in the"
    ),
    "model with one more": (
        put("model", "blocks.0.extra", torch.zeros(2)), "blocks.0.extra is in one of its model and"
    ),
    "both with one more": (one_more_in_both, "extra unknown"),
    "model turned on its side": (
        one_weight("model", lambda weight: weight.T), r"its ema has .*, its model of \(64, 192\)"
    ),
    "model has integers": (one_weight("model", lambda weight: weight.long()), FLOATS),
    "model has a text": (one_weight("model", lambda weight: "many"), f"is 'many', {FLOATS}"),
    "model is empty": (put("model", {}), "its model is dict, it must be a state dict"),
    "model has numbers for names": (put("model", {1: torch.zeros(2)}), "it must be a state dict"),
    "ema is NaN": (scale("ema", NAN), "ema.pos_embed holds NaN or infinity"),
    "ema has integers": (one_weight("ema", lambda weight: weight.long()), FLOATS),
    "ema is empty": (put("ema", {}), "its ema is dict, it must be a state dict"),
}  # fmt: skip


def said_of(words: str) -> str:
    """Match what is said of altered.pt, in these words."""
    return rf"altered\.pt.*{words}"


def checkpoint_rows() -> Iterator[Row]:
    resume = f"{RESUME} --resume {ALTERED}"
    for part, (value, words) in PARTS.items():
        yield Row(f"resume without {part}", resume, said_of(f"without {part}, so a run cannot be"),
                  alter_checkpoint(drop(part)))  # fmt: skip
        yield Row(f"resume {part} is {value}", resume, said_of(words),
                  alter_checkpoint(put(part, value)))  # fmt: skip
    given = {  # flags that contradict the file; those that are not given are the file's
        "--global-seed 0": (put("config", "global_seed", 7), "--global-seed: 7 there"),
        "--loss-type layer_sync": (
            put("config", "loss_type", "vanilla"),
            "--loss-type: vanilla the",
        ),
    }
    for flags, (change, words) in given.items():
        yield Row(f"resume with {flags}, another there", f"{resume} {flags}", said_of(words),
                  alter_checkpoint(change))  # fmt: skip
    for what, (change, words) in CHANGES.items():
        yield Row(f"resume {what}", resume, said_of(words),
                  alter_checkpoint(change))  # fmt: skip


SAMPLED = {
    "without ema": (drop("ema"), "no ema in it, only model"),
    "ema is NaN": (scale("ema", NAN), "ema pos_embed holds NaN or infinity"),
    "ema has one infinity": (
        one_weight("ema", one_row(float("inf"))), "ema blocks.0.attn.qkv.weight holds NaN"
    ),
    "ema is a list": (put("ema", [1, 2]), "its ema is list, it must be a state dict"),
    "weights alone, without a tensor": (
        lambda content: content["ema"].pop("blocks.3.mlp.fc2.bias") is None or content["ema"],
        r"blocks\.3\.mlp\.fc2\.bias missing",
    ),
    "weights alone, without blocks": (
        lambda content: {k: v for k, v in content["ema"].items() if "blocks" not in k},
        "not the weights of a SiT",
    ),
    "weights alone, turned on their side": (
        lambda content: one_weight("ema", lambda weight: weight.T)(content) or content["ema"],
        r"qkv\.weight is \(64, 192\) there",
    ),
    "config is a text": (put("config", "many"), "its config is 'many', it must be a dict"),
    "config has another path": (
        put("config", "transport", "path_type", "Curved"), "path_type is 'Curved', it must be one"
    ),
    "config has no such prediction": (
        put("config", "transport", "prediction", "future"), "prediction is 'future', it must be on"
    ),
    "the end of time is cut off": (
        put("config", "transport", "sample_eps", 0.7), r"sample_eps is 0.7, it must be a number in"
    ),
    "the end of time is a text": (
        put("config", "transport", "sample_eps", "x"), r"sample_eps is 'x', it must be a number in"
    ),
    "transport is a list": (put("config", "transport", [1]), "transport is list, it must be a dic"),
    "image size is a text": (put("config", "image_size", "large"), "image_size is 'large', it mus"),
    "image size is negative": (put("config", "image_size", -8), "image_size is -8, it must be a w"),
    "classes are a text": (put("config", "num_classes", "ten"), "num_classes is 'ten', it must be"),
    "codec of the config is a number": (put("config", "vae", 7), "config vae is 7, it must be a t"),
    "codec is a number": (put("codec", 7), "its codec is 7, it must be a text"),
    "heads are a text": (put("heads", "many"), "its heads is 'many', it must be a state dict"),
    "is a list": (lambda content: [content["ema"]], "holds a list, not a dict"),
    "is a tensor": (lambda content: torch.zeros(3), "holds a Tensor, not a dict"),
    "holds nothing": (lambda content: {"epoch": 3}, "no state dict in it"),
}  # fmt: skip


def sampled_rows() -> Iterator[Row]:
    sample, suggest = (command.replace(CKPT, ALTERED) for command in (ODE, SUGGEST))
    for what, (change, words) in SAMPLED.items():
        yield Row(f"sample {what}", sample, said_of(words), alter_checkpoint(change))
    yield Row("sample codec is a folder that is none", sample, "--vae /none/such: cannot load",
              alter_checkpoint(put("codec", "/none/such")))  # fmt: skip
    for what in ("without ema", "ema is NaN", "is a list"):
        change, words = SAMPLED[what]
        yield Row(f"suggest {what}", suggest, said_of(words), alter_checkpoint(change))


class Evil:
    """Pickled, it asks to run a command."""

    def __reduce__(self):
        return (print, ("this ran",))


def file_rows() -> Iterator[Row]:
    """Files that are no checkpoints, or only the first part of one."""

    def cut(share: float):
        def prepare(here: Path, box: Path) -> None:
            content = (box / GOOD).read_bytes()
            (here / "altered.pt").write_bytes(content[: int(share * len(content))])

        return prepare

    def evil(here: Path, box: Path) -> None:
        torch.save({"model": {}, "step": Evil()}, here / "altered.pt")

    def old_evil(here: Path, box: Path) -> None:
        content = {"model": {}, "step": Evil()}
        torch.save(content, here / "altered.pt", _use_new_zipfile_serialization=False)

    def text(content: bytes):
        return lambda here, box: (here / "altered.pt").write_bytes(content)

    def loop(here: Path, box: Path) -> None:
        (here / "altered.pt").symlink_to(here / "altered.pt")

    def archive(here: Path, box: Path) -> None:
        with zipfile.ZipFile(here / "altered.pt", "w") as file:
            file.writestr("archive/data.pkl", b"no pickle")

    no_file = "truncated, or not a PyTorch file"
    cases = {
        "is empty": (text(b""), no_file), "is a text": (text(b"hello"), no_file),
        "is another archive": (archive, no_file), "links to itself": (loop, "no such file"),
        "would run something": (evil, "holds more than tensors and plain values"),
        "would run something, in the old format": (old_evil, no_file),
        **{f"ends at {share:.0%}": (cut(share), no_file) for share in (0.001, 0.5, 0.999)},
    }  # fmt: skip
    for what, (prepare, words) in cases.items():
        yield Row(f"resume file {what}", f"{RESUME} --resume {ALTERED}", said_of(words), prepare)
        yield Row(f"sample file {what}", ODE.replace(CKPT, ALTERED), said_of(words), prepare)
    for what, content in {"is empty": b"", "is a text": b"hello, here is no header"}.items():
        yield Row(
            f"sample safetensors {what}", ODE.replace(CKPT, "{here}/altered.safetensors"),
            r"altered\.safetensors: truncated, or not safetensors",
            lambda here, box, content=content: (here / "altered.safetensors").write_bytes(content),
        )  # fmt: skip


def latest_rows() -> Iterator[Row]:
    """`--resume latest` passes over what it cannot use, and ends where nothing is left."""

    def run(*changes: Callable[[Path], object]):
        def prepare(here: Path, box: Path) -> None:
            shutil.copytree(box / "run", here / "results" / "run")
            folder = here / "results" / "run" / "checkpoints"
            for change in changes:
                change(folder)

        return prepare

    def rewrite(name: str, change: Callable[[dict], object]):
        def apply(folder: Path) -> None:
            content = copy_of(torch.load(folder / name, weights_only=True))
            change(content)
            torch.save(content, folder / name)

        return apply

    latest = f"{RESUME} --resume latest"
    bad = {
        "step is a text": (rewrite("0000004.pt", put("step", "four")), "its step is 'four'"),
        "has no step": (rewrite("0000004.pt", drop("step")), "without step"),
        "is cut": (lambda folder: (folder / "0000004.pt").write_bytes(b"PK"), "truncated"),
        "without model": (rewrite("0000004.pt", drop("model")), "without model"),
        "model is NaN": (rewrite("0000004.pt", scale("model", NAN)), "holds NaN or infinity"),
    }
    for what, (change, words) in bad.items():
        said = rf"\Atrain\.py: warning: passed over: checkpoint \S+0000004\.pt: .*{words}"
        yield Row(f"latest: the newest {what}", latest, None, run(change), warns=said)
    older = rewrite("0000002.pt", drop("opt"))
    yield Row("latest: all of them are bad", latest, r"0000002\.pt: without opt.*none of the 2",
              run(bad["is cut"][0], older))  # fmt: skip


def checkpoint_file_rows() -> list[Row]:
    return [*checkpoint_rows(), *sampled_rows(), *file_rows(), *latest_rows()]
