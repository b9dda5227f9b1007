"""The SiT network, its sizes, and the codecs between images and what the network sees."""

from models.codecs import PixelCodec, VAECodec, load_codec
from models.sit import SiT
from models.zoo import SiT_models, find_model

__all__ = ["PixelCodec", "SiT", "SiT_models", "VAECodec", "find_model", "load_codec"]
