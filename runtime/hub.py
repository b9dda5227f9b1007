"""Weights on the Hugging Face hub, named ORG/NAME/FILE, or ORG/NAME where there is one file."""

import re
from pathlib import Path

ENDINGS = (".pt", ".pth", ".safetensors")


def fetch(name: str) -> Path:
    """Download a file once, and say where it lies; `ValueError` when it cannot be had."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    org, repo, *rest = name.split("/")
    source = f"{org}/{repo}"
    try:
        return Path(hf_hub_download(source, "/".join(rest) or the_one_file(source, name)))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"checkpoint {name}: no such file, and not on the Hugging Face hub ({reason})"
        ) from None


def the_one_file(source: str, name: str) -> str:
    from huggingface_hub import list_repo_files

    files = [file for file in list_repo_files(source) if file.endswith(ENDINGS)]
    if len(files) == 1:
        return files[0]
    listed = ", ".join(f"{source}/{file}" for file in files[:8])
    raise ValueError(
        f"checkpoint {name}: {len(files)} files of weights there, name one"
        + (f": {listed}" if listed else "")
    )


def is_hub_name(name: str | Path) -> bool:
    """ORG/NAME or ORG/NAME/FILE, unless it begins with a folder that is here."""
    plain = re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w.-]+)*", str(name))
    return bool(plain) and not str(name).startswith(".") and not Path(Path(name).parts[0]).exists()
