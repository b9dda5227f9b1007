"""Interface of all sources: shapes, codecs that fit; settings with data flags open them."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.data_config import DataConfig, TrainingData
from data.encoding import Encoding
from data.sources import open_source
from models.codecs import PixelCodec
from runtime.randomness import step_streams
from training.config import TrainConfig


@pytest.fixture
def photos(tmp_path):
    """A source of three colour images of 8 x 8 pixels."""
    for i in range(3):
        (tmp_path / str(i)).mkdir()
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / str(i) / "0.png")
    return open_source(DataConfig(data_path=str(tmp_path), image_size=8))


def test_items_have_the_shape_that_the_source_says(photos):
    digits = open_source(DataConfig(dataset_name="digits", image_size=8))
    for source, shape in ((photos, (3, 8, 8)), (digits, (1, 8, 8))):
        item, label = source[1]
        assert tuple(item.shape) == source.shape == shape and label == source.labels[1]


def test_a_codec_of_other_channels_is_refused(photos):
    photos.check_codec(PixelCodec(3), 8)
    with pytest.raises(ValueError, match="encodes images of 1 channels, the data has 3"):
        photos.check_codec(PixelCodec(1), 8)


def test_encoding_mirrors_where_drawn_and_where_the_data_allows_it(photos):
    """Pixels become x / 127.5 - 1; a mirrored digit would be no digit."""
    digits = open_source(DataConfig(dataset_name="digits", image_size=8))
    mirrored = torch.tensor([True, False])
    for source in (photos, digits):
        settings = TrainingData(image_size=8, vae="none")
        encoding = Encoding(settings, "SiT-Ti/2", source, torch.device("cpu"))
        items = torch.stack([source[0][0], source[1][0]])
        x_1 = encoding(items, mirrored, step_streams(0, 0, range(2)))
        seen = items.clone()
        if source is photos:
            seen[0] = seen[0].flip(-1)
        assert torch.equal(x_1, seen.float() / 127.5 - 1)
        assert tuple(x_1.shape[1:]) == encoding.latent_shape == source.shape


def test_settings_of_a_run_name_data_as_any_commands_do():
    run = TrainConfig(dataset_name="digits", image_size=8)
    assert isinstance(run, DataConfig) and len(open_source(run)) == 1797
    assert (run.name_flag, run.data_name) == ("--dataset-name", "digits")
    assert DataConfig().data_name == "imagenet-1k"
