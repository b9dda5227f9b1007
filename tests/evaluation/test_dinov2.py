"""FD-DINOv2 through timm, with a tiny vision transformer of random weights."""

import numpy as np
import pytest
import torch

from evaluation import Evaluator, frechet_distance, statistics
from evaluation.dinov2 import DinoV2
from evaluation.evaluator import load_extractors
from evaluation.make_reference import MakeReference, make_reference
from evaluation.options import MetricOptions, NetworkOptions


@pytest.fixture
def weights(tmp_path):
    import timm

    torch.manual_seed(0)
    path = tmp_path / "vit.pth"
    torch.save(timm.create_model("test_vit", img_size=224, num_classes=0).state_dict(), path)
    return str(path)


@pytest.fixture
def both_networks(tiny_networks, monkeypatch):
    """The tiny network for Inception, timm's test transformer for DINOv2."""

    def load(options):
        dinov2 = DinoV2(options.dinov2_weights, options.dinov2_model)
        return [tiny_networks, *([dinov2] if options.fd_dinov2 else [])]

    monkeypatch.setattr("evaluation.evaluator.load_extractors", load)


def test_features_are_the_networks_of_normalised_images(weights):
    import timm

    network = DinoV2(weights, "test_vit")
    batch = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)  # of the size already
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    normal = (batch.float() / 255 - mean[:, None, None]) / std[:, None, None]
    direct = timm.create_model("test_vit", img_size=224, num_classes=0).eval()
    direct.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        features = network(batch)["dinov2"]
        torch.testing.assert_close(features, direct(normal), rtol=1e-4, atol=1e-5)
    assert features.shape == (2, network.sizes["dinov2"])


def test_fd_dinov2_is_the_distance_of_its_features(tmp_path, images, weights, both_networks):
    """From the reference's images, and from statistics that are stored in it."""
    real, made = images(90, 1), images(80, 2)
    np.savez(tmp_path / "real.npz", real)
    networks = NetworkOptions(fd_dinov2=True, dinov2_weights=weights, dinov2_model="test_vit")
    stored = str(tmp_path / "stored.npz")
    make_reference(MakeReference(str(tmp_path / "real.npz"), stored, networks=networks))
    options = MetricOptions(fd_dinov2=True, dinov2_weights=weights, dinov2_model="test_vit")
    network = DinoV2(weights, "test_vit")
    with torch.no_grad():
        expected = frechet_distance(*[
            array
            for images in (real, made)
            for array in statistics(
                network(torch.from_numpy(images).permute(0, 3, 1, 2))["dinov2"].numpy()
            )
        ])  # fmt: skip
    for reference in (str(tmp_path / "real.npz"), stored):
        result = Evaluator(reference, options).evaluate([made[:30], made[30:]])
        assert result.metrics["fd_dinov2"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="made with another dinov2_model: test_vit, not test_vit2"):
        Evaluator(stored, MetricOptions(fd_dinov2=True, dinov2_model="test_vit2"))


def test_weights_that_cannot_be_had_are_one_line(tmp_path, monkeypatch, inception_weights):
    with pytest.raises(ValueError, match=r"--dinov2-weights \S*none\.pth: no such file"):
        DinoV2(str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match="DINOv2 test_vit: cannot be loaded"):
        DinoV2(str(tmp_path / "text.pth"), "test_vit")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"DINOv2 nonsense: cannot be loaded .* --dinov2-weights"):
        load_extractors(NetworkOptions(inception_weights, fd_dinov2=True, dinov2_model="nonsense"))
