"""Operations from settings: those that torch counts in a forward pass."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from data.data_config import TrainingData
from models import find_model
from models.forward_cost import forward_operations, transformer_blocks
from sweeps.operations import network_input


@pytest.mark.parametrize(
    ("model", "size", "channels"),
    [("SiT-B/2", 32, 4), ("SiT-S/4", 16, 3), ("SiT-B-narrow/2", 8, 1)],
)
def test_a_forward_pass_has_the_operations_that_torch_counts(model, size, channels):
    with torch.device("meta"):
        network = find_model(model)(input_size=size, in_channels=channels, num_classes=10).eval()
        x, t, y = torch.zeros(1, channels, size, size), torch.zeros(1), torch.zeros(1).long()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x, t, y)
    assert forward_operations(model, size, channels) == counter.get_total_flops()


def test_an_encoder_is_counted_by_its_blocks():
    import timm

    encoder = timm.create_model("vit_base_patch14_dinov2.lvd142m", img_size=224).eval().to("meta")
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.forward_features(torch.zeros(1, 3, 224, 224))
    counted = counter.get_total_flops()
    assert transformer_blocks(12, 768, 257) == pytest.approx(counted, rel=0.01)


def test_the_network_sees_latents_or_pixels():
    assert network_input(TrainingData(image_size=256, vae="ema")) == (32, 4)
    assert network_input(TrainingData(image_size=8, vae="none", dataset_name="digits")) == (8, 1)
    assert network_input(TrainingData(image_size=64, vae="none")) == (64, 3)
