"""The SiT network, its sizes, and the codecs between images and what the network sees.

What is named here is loaded when it is first used: `models.sizes` does not load torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.codecs import PixelCodec, VAECodec, load_codec
    from models.sit import SiT
    from models.zoo import SiT_models, find_model

__all__ = ["PixelCodec", "SiT", "SiT_models", "VAECodec", "find_model", "load_codec"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from models import codecs, sit, zoo

    for module in (codecs, sit, zoo):
        if hasattr(module, name):
            return getattr(module, name)
    raise AssertionError(name)
