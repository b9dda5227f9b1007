"""Inception's three features, against torch-fidelity and a transcription; its weights, refused."""

from urllib.error import URLError

import numpy as np
import pytest
import torch

from evaluation import frechet_distance
from evaluation.features import FeaturePass, extract
from evaluation.inception import Inception
from evaluation.scoring import kernel_distance
from runtime.processes import Processes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inception(inception_weights):
    return Inception(inception_weights)


def resize_as_tensorflow_1(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, C) to (size, size, C): bilinear between floor(i in/out) and the next pixel."""

    def axis(length):
        source = np.arange(size) * np.float64(length / size)
        low = np.floor(source).astype(int)
        return low, np.minimum(low + 1, length - 1), source - low

    (top, bottom, dy), (left, right, dx) = (axis(length) for length in image.shape[:2])
    image, dx, dy = image.astype(np.float64), dx[None, :, None], dy[:, None, None]
    above = image[top][:, left] * (1 - dx) + image[top][:, right] * dx
    below = image[bottom][:, left] * (1 - dx) + image[bottom][:, right] * dx
    return above * (1 - dy) + below * dy


def test_three_features_of_one_pass(inception, images):
    batch = images(2, 0)
    taken = {}
    network = inception.network

    def keep(name):
        return lambda module, inputs, output: taken.update({name: (inputs[0], output)})

    hooks = [
        getattr(network, name).register_forward_hook(keep(name))
        for name in ("Conv2d_1a_3x3", "Mixed_6d", "AvgPool")
    ]
    with torch.no_grad():
        features = inception(torch.from_numpy(batch).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()
    assert {name: f.shape[1] for name, f in features.items()} == inception.sizes
    assert inception.sizes["spatial"] == 2023
    # what goes in
    expected = np.stack([(resize_as_tensorflow_1(image, 299) - 128) / 128 for image in batch])
    entered = taken["Conv2d_1a_3x3"][0].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(entered, expected, atol=2e-4)
    # what comes out: the mean over 8x8, seven channels in the order H, W, C, and no bias
    before_pool = taken["AvgPool"][0]
    assert before_pool.shape[1:] == (2048, 8, 8)
    torch.testing.assert_close(features["pool"], before_pool.mean(dim=(2, 3)))
    block = taken["Mixed_6d"][1]
    assert block.shape[1:] == (768, 17, 17)
    channels_last = block.permute(0, 2, 3, 1)[..., :7].reshape(2, -1)
    torch.testing.assert_close(features["spatial"], channels_last)
    torch.testing.assert_close(features["logits"], features["pool"] @ network.fc.weight.T)
    assert network.fc.bias.abs().max() > 0


def test_fid_and_kid_are_torch_fidelitys(inception, inception_weights, images):
    from torch_fidelity import metric_fid, metric_kid
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("theirs", ["2048"], inception_weights)
    sets = images(5, 1), images(5, 2)
    theirs = [network(torch.from_numpy(array).permute(0, 3, 1, 2))[0] for array in sets]
    ours = [extract([inception], [array], {"pool"}, {"pool"}, CPU, Processes()) for array in sets]
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.from_numpy(mine.kept["pool"]), their)
    kid = metric_kid.kid_features_to_metric(*theirs, kid_subset_size=5, verbose=False)
    assert kernel_distance(ours[1].kept["pool"], ours[0].kept["pool"]) == pytest.approx(
        kid[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-4
    )
    some = slice(0, 2048, 16)  # their eigenvalues of 2048 x 2048 take a while
    statistics = [metric_fid.fid_features_to_statistics(their[:, some]) for their in theirs]
    fid = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    mine = [
        (mean[some], covariance[some, some])
        for mean, covariance in (features.statistics("pool") for features in ours)
    ]
    assert frechet_distance(*mine[0], *mine[1]) == pytest.approx(
        fid[metric_fid.KEY_METRIC_FID], rel=1e-5
    )


def test_weights_that_cannot_be_had_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))

    def offline(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(ValueError, match=r"no Inception weights: https.* give --inception-weights"):
        Inception()
    with pytest.raises(ValueError, match=r"--inception-weights \S*none\.pth: no such file"):
        Inception(str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"--inception-weights \S*text\.pth: not such weights"):
        Inception(str(tmp_path / "text.pth"))
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"not torch-fidelity's weights of Inception-v3"):
        Inception(str(tmp_path / "other.pth"))


def test_a_file_that_runs_code_is_not_unpickled(tmp_path):
    class Runs:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    torch.save({"fc.weight": Runs()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="not such weights"):
        Inception(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


def test_broken_weights_are_noticed(tiny_networks, images):
    tiny_networks.pool[0] = float("nan")
    features = FeaturePass([tiny_networks], {"pool"}, set(), CPU)
    with pytest.raises(ValueError, match="pool features hold NaN or inf"):
        features.add(images(3, 0))
