"""Weights on the Hugging Face hub, named ORG/NAME/FILE, or ORG/NAME.

ORG/NAME is its model.safetensors, or the one file of weights that there is.
"""

import contextlib
import re
import sys
from pathlib import Path
from typing import Any

from runtime.command import RunError
from runtime.launch import is_first_process

WEIGHTS = "model.safetensors"  # what scripts/share.py calls a network's file
ENDINGS = (".pt", ".pth", ".safetensors")
PATIENCE_SECONDS = 5.0


def fetch(name: str) -> Path:
    """Download a file once, and say where it lies; `ValueError` when it cannot be had.

    Without a connection, a file that was downloaded before is there at once, and no other is
    waited for.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    org, repo, *rest = name.split("/")
    source = f"{org}/{repo}"
    if is_first_process():
        print(
            f"checkpoint {name}: no such file here, looking on the Hugging Face hub",
            file=sys.stderr,
        )
    trouble = connection_trouble()
    local: dict[str, Any] = {"local_files_only": True} if trouble else {}
    try:
        if rest:
            return Path(hf_hub_download(source, "/".join(rest), **local))
        with contextlib.suppress(EntryNotFoundError, LocalEntryNotFoundError):
            return Path(hf_hub_download(source, WEIGHTS, **local))
        if trouble:
            trouble += f"; a file that was downloaded before is had as {source}/FILE"
            raise OSError(trouble)
        return Path(hf_hub_download(source, the_one_file(source, name), **local))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = trouble or str(error).strip().splitlines()[0]
        absent = isinstance(error, EntryNotFoundError)
        if rest and absent and not isinstance(error, LocalEntryNotFoundError):
            reason = f"{source} has {listing(source, weights_files(source)) or 'no weights'}"
        raise ValueError(
            f"checkpoint {name}: no such file, and not on the Hugging Face hub ({reason})"
        ) from None


def connection_trouble() -> str:
    """Say within seconds why the hub cannot be reached; empty if it can, or if it is not asked.

    Its client would try five times, which takes half a minute.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return ""  # then the client does not try either
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE_SECONDS)
    except Exception as error:  # of the library that the client's version uses
        return f"no connection: {' '.join(str(error).split()) or type(error).__name__}"[:200]
    return ""


def weights_files(source: str) -> list[str]:
    """Return the names of the files of weights in ORG/NAME."""
    from huggingface_hub import list_repo_files

    return [file for file in list_repo_files(source) if file.endswith(ENDINGS)]


def listing(source: str, files: list[str]) -> str:
    """Name the first of these files as --ckpt takes them."""
    return ", ".join(f"{source}/{file}" for file in files[:8])


def the_one_file(source: str, name: str) -> str:
    files = weights_files(source)
    if len(files) == 1:
        return files[0]
    listed = listing(source, files)
    raise ValueError(
        f"checkpoint {name}: {len(files)} files of weights there, name one"
        + (f": {listed}" if listed else "")
    )


def is_hub_name(name: str | Path) -> bool:
    """Return whether it is ORG/NAME or ORG/NAME/FILE; not if it begins with a folder here."""
    plain = re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w.-]+)*", str(name))
    return bool(plain) and not str(name).startswith(".") and not Path(Path(name).parts[0]).exists()


def check_push(name: str) -> None:
    """Raise `ValueError` unless this user can publish something as ORG/NAME."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"--push-to-hub {name}: it must be ORG/NAME")
    if trouble := connection_trouble():
        raise ValueError(f"--push-to-hub {name}: the Hugging Face hub is out of reach ({trouble})")
    try:
        HfApi().whoami()
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--push-to-hub {name}: the hub does not know who you are ({reason}); hf auth login, "
            f"or HF_TOKEN in the environment"
        ) from None


def push(folder: Path, name: str, private: bool) -> str:
    """Publish the files of a folder as ORG/NAME, made if it is new; returns its address.

    Raises `RunError` when the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        made = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by share.py")
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"--push-to-hub {name}: refused ({reason}); {folder} is whole, the same command tries "
            f"again"
        ) from None
    return str(made)
