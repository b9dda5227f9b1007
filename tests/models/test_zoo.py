"""The zoo: published sizes, and weights that say which model they belong to."""

from dataclasses import replace

import pytest
import torch

from models import SiT, SiT_models, find_model
from models.sizes import narrow
from models.zoo import describe_weights
from training.config import TrainConfig
from training.methods.layer_sync import layer_sync_settings
from training.settings_record import resolved_settings

PUBLISHED = {"S": 33e6, "B": 130e6, "L": 458e6, "XL": 675e6}
SHAPES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}


def on_meta(name, **arguments):
    with torch.device("meta"):
        return SiT_models[name](input_size=32, num_classes=1000, **arguments)


@pytest.mark.parametrize("size", PUBLISHED)
def test_patch_2_models_have_the_published_number_of_parameters(size):
    count = sum(parameter.numel() for parameter in on_meta(f"SiT-{size}/2").parameters())
    assert count == pytest.approx(PUBLISHED[size], rel=0.01)


@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("size", SHAPES)
def test_names_say_size_and_patch(size, patch):
    model = on_meta(f"SiT-{size}/{patch}")
    depth, width, heads = SHAPES[size]
    assert isinstance(model, SiT)
    assert (len(model.blocks), model.pos_embed.shape[-1]) == (depth, width)
    assert model.blocks[0].attn.num_heads == heads
    assert model.patch_size == patch and model.pos_embed.shape[1] == (32 // patch) ** 2


def test_tiny_models_run_on_pixels():
    for name, shape in (("SiT-Ti/1", (2, 1, 8, 8)), ("SiT-Ti/2", (2, 3, 8, 8))):
        model = SiT_models[name](input_size=8, in_channels=shape[1], num_classes=10)
        assert model(torch.zeros(shape), torch.zeros(2), torch.zeros(2).long()).shape == shape
        assert sum(parameter.numel() for parameter in model.parameters()) < 2e6


@pytest.mark.parametrize("size", ["B", "L", "XL"])
def test_narrow_models_have_the_blocks_of_their_namesakes_at_width_32(size):
    full, small = on_meta(f"SiT-{size}/2"), on_meta(f"SiT-{size}-narrow/2")
    assert len(small.blocks) == len(full.blocks) and small.pos_embed.shape[-1] == 32
    assert narrow(f"SiT-{size}/4") == f"SiT-{size}-narrow/2"
    c = TrainConfig(model=f"SiT-{size}/2")
    assert layer_sync_settings(c) == layer_sync_settings(replace(c, model=narrow(c.model)))
    for loss in ("sra", "repa"):
        own = [
            resolved_settings(replace(c, model=m, loss_type=loss))
            for m in (c.model, narrow(c.model))
        ]
        assert {**own[0], "model": ""} == {**own[1], "model": ""}


def test_find_model_knows_every_name_and_lists_them_for_an_unknown_one():
    assert all(find_model(name) is SiT_models[name] for name in SiT_models)
    with pytest.raises(ValueError) as error:
        find_model("DiT-XL/2")
    assert "DiT-XL/2" in str(error.value)
    assert all(name in str(error.value) for name in SiT_models)


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("name", SiT_models)
def test_weights_say_which_model_they_belong_to(name, learn_sigma):
    sizes = dict(input_size=16, in_channels=3, num_classes=42, learn_sigma=learn_sigma)
    with torch.device("meta"):
        model = find_model(name)(**sizes)
    assert describe_weights(model.state_dict()) == {"name": name} | sizes


def test_weights_of_something_else_are_refused(golden_model):
    with pytest.raises(ValueError, match=r"x_embedder\.proj\.weight"):
        describe_weights(torch.nn.Linear(2, 2).state_dict())
    with pytest.raises(ValueError, match=r"depth.*6.*hidden_size.*32"):
        describe_weights(golden_model.state_dict())
