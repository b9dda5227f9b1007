"""The flags that name data, each declared once for every command that reads data. No torch here.

A command's settings inherit from one of these, so that they have its flags and can be given to
`open_source` and `load_source` as they are.
"""

from dataclasses import dataclass
from typing import ClassVar

from runtime.flags import free


@dataclass(frozen=True)
class DataLocation:
    """Settings that say which images and labels are used, and where they are."""

    ALTERNATIVES: ClassVar[tuple[tuple[str, ...], ...]] = (("data_path", "dataset_name"),)
    """fields that say the same: one from the command line replaces another in a settings file"""

    data_path: str | None = free(None)
    """a folder of images in class folders (ImageFolder), of parquet files, or of latents that
    scripts/cache_latents.py made; or a name on the Hugging Face hub"""
    dataset_name: str | None = None
    """the original's name for that, and "digits" (embedded); imagenet-1k if no data is named"""
    image_column: str | None = free(None)
    """column of the images in parquet files and hub data sets; found by its type unless given"""
    label_column: str | None = free(None)
    """column of the labels there; found by its type unless given"""
    split: str | None = None
    """split of a hub data set or of parquet files; train, or the only one, unless given"""
    cache_dir: str | None = free(None)
    """where the hub's files are kept"""

    def check_location(self) -> None:
        """Raise `ValueError` when two flags name the data."""
        if self.data_path and self.dataset_name:
            raise ValueError("--data-path and --dataset-name both name the data: give one of them")

    @property
    def name_flag(self) -> str:
        """Return the flag that names the data."""
        return "--data-path" if self.data_path else "--dataset-name"

    @property
    def data_name(self) -> str:
        """Return the name of the data as it was given, or ImageNet's if none was given."""
        return self.data_path or self.dataset_name or "imagenet-1k"


@dataclass(frozen=True)
class DataConfig(DataLocation):
    """Settings needed to open a source: where the images are, and their size."""

    image_size: int | None = None
    """side of the images after ADM's centre crop, pixels; that of the data unless given, 256 where
    images have several sizes"""
    resize: bool = free(False)
    """enlarge images that are smaller than --image-size"""

    @property
    def known_size(self) -> int:
        """Return the image size of settings that have been `fitted` to their data."""
        assert self.image_size is not None, "settings that were not fitted to their data"
        return self.image_size


@dataclass(frozen=True)
class TrainingData(DataConfig):
    """Data as a network learns from it: how it is read, its classes, and its codec."""

    streaming: bool = False
    """read that data as it comes over the network, instead of downloading it first"""
    num_classes: int | None = None
    """number of classes; that of the data unless given"""
    vae: str | None = None
    """codec: ema or mse (Stability's fine-tuned SD autoencoders), a hub id, a folder, or "none" for
    pixels; ema unless given, for a latent cache its own, for the digits none"""
    vae_bf16: bool = False
    """changes numbers: encode images in bf16 and channels-last, faster on a GPU. A cache made by
    scripts/cache_latents.py costs nothing in a step and is exact"""
    num_workers: int = free(4)
    """data loading processes per training process"""

    @property
    def known_classes(self) -> int:
        """Return the number of classes of settings that have been `fitted` to their data."""
        assert self.num_classes is not None, "settings that were not fitted to their data"
        return self.num_classes

    @property
    def known_codec(self) -> str:
        """Return the codec of settings that have been `fitted` to their data."""
        assert self.vae is not None, "settings that were not fitted to their data"
        return self.vae
