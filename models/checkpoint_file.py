"""Checkpoint files, of this project and of others, read without trusting them."""

import argparse
import json
import pickle
import zipfile
from pathlib import Path

import torch

from models.checkpoint_schema import check_content
from models.published import PUBLISHED, fetch_published, is_published
from runtime.files import check_file
from runtime.hub import WEIGHTS, fetch, is_hub_name


def read_checkpoint(path: str | Path, mmap: bool = False) -> dict:
    """Read the dict in a checkpoint file, on the CPU, without unpickling anything but tensors.

    The path may be a name that `locate` knows. `ValueError` for a missing, truncated or
    foreign file, and for one of this project's that holds what it never wrote.
    """
    path = locate(path)
    safe = Path(path).suffix == ".safetensors"
    content = read_safetensors(path) if safe else read_pickled(path, mmap)
    if "config" in content or "arch" in content:  # others' files have neither
        try:
            check_content(content)
        except ValueError as error:
            raise ValueError(f"checkpoint {path}: altered or damaged: {error}") from None
    return content


def locate(name: str | Path) -> Path:
    """Return the file that a checkpoint's name means; `ValueError` when there is none.

    Args:
        name: a file, a folder that scripts/share.py made, a short name of a published checkpoint,
            or ORG/NAME or ORG/NAME/FILE on the Hugging Face hub.
    """
    path = Path(name)
    if path.is_file():
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    if is_published(name):
        return fetch_published(name)
    if is_hub_name(name) and not path.exists():
        return fetch(str(name))
    if path.name == str(name) and not path.suffix and not path.exists():
        known = ", ".join(PUBLISHED)
        raise ValueError(f"checkpoint {name}: no such file; short names are {known}")
    check_file(path, f"checkpoint {name}")
    raise AssertionError(name)


def read_pickled(path: str | Path, mmap: bool) -> dict:
    try:
        content = load_tensors(path, mmap)
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(path):
            raise ValueError(f"checkpoint {path}: truncated, or not a PyTorch file") from None
        lines = [line for line in str(error).splitlines() if "GLOBAL" in line] or ["unknown"]
        raise ValueError(
            f"checkpoint {path}: holds more than tensors and plain values, which is not unpickled "
            f"({lines[0].strip()[:120]})"
        ) from None
    except Exception as error:  # torch.load fails in as many ways as there are foreign files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"checkpoint {path}: truncated, or not a PyTorch file ({reason[:100]})"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"checkpoint {path}: holds a {type(content).__name__}, not a dict")
    return content


def load_tensors(path: str | Path, mmap: bool) -> dict:
    mmap = mmap and zipfile.is_zipfile(path)  # files from before torch 1.6 are not zip archives
    # official files hold their command line as a Namespace: plain data
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def read_safetensors(path: str | Path) -> dict:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
            config = json.loads(metadata.get("config", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"checkpoint {path}: truncated, or not safetensors ({error})") from None
    turned = metadata.get("time") == "reversed"
    known = {"config": config} if config else {}
    if metadata.get("weights") == "model":  # not an average, though it lies where readers look
        known["kept"] = "model"
    if metadata.get("step", "").isdecimal():
        known["step"] = int(metadata["step"])
    return {"ema": weights, "reversed_time": turned} | known
