"""--probes cka cknna mutual-knn: the features compared are those of the tokens and the encoder."""

import numpy as np
import pytest
import timm
import torch
from probing import FEW, config, measured, probe, save_network
from safetensors.torch import save_file

from data.sources import DigitsSource
from evaluation.blocks.alignment_metrics import (
    cka,
    cknna,
    clamped,
    mutual_knn,
    neighbours,
    normalised,
)
from evaluation.blocks.blocks_command import run_blocks
from evaluation.blocks.blocks_config import AlignmentOptions
from evaluation.blocks.example_batches import Examples, label_target
from evaluation.blocks.held_out import some_images
from evaluation.blocks.image_encoder import ImageEncoder, resampled
from evaluation.blocks.tokens import TokenExtractor
from models.trained import load_trained
from transport import create_transport

CPU = torch.device("cpu")
WORDS = ("cka", "cknna", "mutual-knn")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint of the digits, whose grid is 4 x 4, and weights of two of timm's networks."""
    folder = tmp_path_factory.mktemp("alignment")
    made = {"a": save_network(folder / "a.pt", 0), "b": save_network(folder / "b.pt", 1)}
    for name in ("test_vit", "test_resnet"):
        torch.manual_seed(0)
        made[name] = str(folder / f"{name}.safetensors")
        save_file(timm.create_model(name, num_classes=10).state_dict(), made[name])
    return made


def batch_of(count):
    source = DigitsSource()
    numbers = some_images(len(source), count, 0).tolist()
    examples = Examples(source, lambda x, *_: x.float() / 127.5 - 1, seed=0, batch_size=count)
    (batch,) = examples.batches(numbers, label_target(torch.as_tensor(source.labels)))
    return batch, torch.stack([source[i][0] for i in numbers])


def tokens_of(file, batch, time, blocks):
    trained = load_trained(file)
    chosen = [trained.model.blocks[b - 1] for b in blocks]
    return TokenExtractor(trained.network, chosen, create_transport().path).tokens(batch, time)


def test_numbers_are_those_of_the_pooled_features(files, tmp_path):
    o = AlignmentOptions(encoder="test_vit", encoder_weights=files["test_vit"], neighbours=5)
    probe(config((files["a"],), tmp_path, WORDS, alignment_options=o))
    entries = {entry["probe"]: entry for entry in measured(tmp_path)}
    batch, images = batch_of(60)
    features = ImageEncoder("test_vit", files["test_vit"], 4, CPU)(images)
    assert features.shape == (60, 16, 64)
    other = features.mean(dim=1)
    for k, time in enumerate(FEW["times"]):
        for i, z in enumerate(tokens_of(files["a"], batch, time, FEW["blocks"])):
            own = z.mean(dim=1)
            values = {name: entry["values"] for name, entry in entries.items()}
            a, b = normalised(own), normalised(other)
            assert values["cka"]["cka"][k][i] == pytest.approx(cka(a, b), abs=1e-5)
            assert values["cka"]["cka_biased"][k][i] == pytest.approx(cka(a, b, False), abs=1e-5)
            near = [neighbours(normalised(clamped(x)), 5) for x in (own, other)]
            assert values["cknna"]["cknna"][k][i] == pytest.approx(cknna(*near), abs=1e-4)
            assert values["mutual-knn"]["mutual_knn"][k][i] == pytest.approx(mutual_knn(*near))


def test_blocks_of_another_checkpoint_by_token(files, tmp_path):
    o = AlignmentOptions(encoder=files["a"], by_token=True)
    ckpts = (files["a"], files["b"])
    run_blocks(config(ckpts, tmp_path, ("cka",), alignment_options=o, samples=10, times=(0.5,)))
    same, other = measured(tmp_path)
    assert same["values"]["cka"][0] == pytest.approx([1, 1, 1], abs=1e-9)  # of itself
    (matrix,) = (np.array(m) for m in other["maps"].values())
    assert matrix.shape == (3, 8) and (tmp_path / "cka-maps.png").is_file()
    batch, _ = batch_of(10)
    x = normalised(tokens_of(files["b"], batch, 0.5, [5])[0].flatten(0, 1))
    y = normalised(tokens_of(files["a"], batch, 0.5, [2])[0].flatten(0, 1))
    assert matrix[1, 1] == pytest.approx(cka(x, y), abs=1e-5)


def test_maps_of_a_convolutional_network_are_resampled(files):
    _, images = batch_of(3)
    encoder = ImageEncoder("test_resnet", files["test_resnet"], 4, CPU)
    assert encoder(images).shape == (3, 16, encoder.network.num_features)
    grid = torch.arange(16.0).view(1, 16, 1)
    assert resampled(grid, 4, (4, 4)) is not None
    assert resampled(grid, 2, (4, 4)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert resampled(torch.ones(1, 4, 3), 4, (2, 2)).shape == (1, 16, 3)


def test_an_encoder_without_places_is_refused(files):
    with pytest.raises(ValueError, match="--encoder no_such_network: cannot be loaded"):
        ImageEncoder("no_such_network", None, 4, CPU)
    encoder = ImageEncoder("test_resnet", files["test_resnet"], 4, CPU)
    width = encoder.network.num_features
    encoder.network.forward_features = lambda x: x.new_zeros(len(x), 49, width)  # as a mixer's
    with pytest.raises(ValueError, match=r"features \(3, 49, \d+\) are on no grid .* 4 x 4 tokens"):
        encoder(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))


def test_more_images_than_pairs_are_compared_of_are_refused(files, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.blocks.alignment_experiment.MOST", 59)
    o = AlignmentOptions(encoder=files["a"])
    said = "--samples 60: cknna and mutual-knn compare pairs of images, of 59 at most; give --sampl"
    with pytest.raises(ValueError, match=said):
        run_blocks(config((files["a"],), tmp_path, WORDS, alignment_options=o))
