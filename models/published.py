"""Short names of published checkpoints: --ckpt sit-xl-2.

Where they are is what their authors' pages say; LayerSync's page names the repository, and its two
files are named as in a copy of that page. They are fetched at their first use, and their
checksum is recorded then and compared after (runtime/downloads.py).
"""

from dataclasses import dataclass
from pathlib import Path

from runtime.downloads import confirm_checksum, download_once
from runtime.hub import fetch


@dataclass(frozen=True)
class Published:
    """A checkpoint that others published.

    Args:
        source: an https address, or ORG/NAME/FILE on the Hugging Face hub.
        about: what it is, in a line.
    """

    source: str
    about: str


PUBLISHED = {
    "sit-xl-2": Published(
        "https://www.dl.dropboxusercontent.com/scl/fi/as9oeomcbub47de5g4be0/SiT-XL-2-256.pt"
        "?rlkey=uxzxmpicu46coq3msb17b9ofa&dl=0",
        "SiT-XL/2 on ImageNet 256 (github.com/willisma/SiT)",
    ),
    "layersync-xl-2": Published(
        "Yassaman/LayerSync/checkpoint.pt",
        "SiT-XL/2 with LayerSync, 800 epochs of ImageNet (github.com/vita-epfl/LayerSync)",
    ),
    "layersync-xl-2-representation": Published(
        "Yassaman/LayerSync/representation.pt",
        "the checkpoint of LayerSync's evaluation of representations",
    ),
}
SIT_NAME = "SiT-XL-2-256x256.pt"  # what SiT calls its published weights
SYNONYMS = {SIT_NAME: "sit-xl-2"}


def is_published(name: str | Path) -> bool:
    return SYNONYMS.get(str(name), str(name)) in PUBLISHED


def fetch_published(name: str | Path) -> Path:
    """Return the file of a published checkpoint; `ValueError` when it cannot be had or has changed.

    Args:
        name: one of `PUBLISHED`, or SiT's own name for its weights.
    """
    name = SYNONYMS.get(str(name), str(name))
    source = PUBLISHED[name].source
    address = source.startswith(("https:", "http:"))
    try:
        path = download_once(name, source) if address else fetch(source)
    except ValueError as error:
        said = str(error).removeprefix(f"checkpoint {source}: ")
        raise ValueError(said if address else f"checkpoint {name}, {source}: {said}") from None
    confirm_checksum(name, path, source)
    return path
