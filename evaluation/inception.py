"""Inception-v3 of 2015, used as in ADM's evaluator: three features in one pass.

The network is torch-fidelity's `inception-v3-compat`, which resizes to 299x299 as TensorFlow 1 did
(source = i in/out, bilinear, no antialiasing) and scales to (x - 128) / 128.
"""

import sys
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from evaluation.image_sets import content_hash
from runtime.files import check_file

SPATIAL_CHANNELS = 7  # of 768, at 17x17
SIZES = {"pool": 2048, "spatial": 17 * 17 * SPATIAL_CHANNELS, "logits": 1008}
OFFICIAL_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


class Inception(nn.Module):
    """Extractor of three features from uint8 images (N, 3, H, W).

    `pool` (N, 2048) is the last average pool; `spatial` (N, 2023) the first 7 channels of block
    Mixed_6d's output, flattened in the order H, W, C; `logits` (N, 1008) the class scores without
    bias.

    Args:
        weights: file of torch-fidelity's weights; None downloads it once into torch's cache.

    Raises `ValueError` when there are no such weights.
    """

    def __init__(self, weights: str | None = None):
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = Path(weights) if weights else download()
        check_weights(path)
        self.sizes, self.sha256 = SIZES, content_hash(path)
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=str(path),
        )
        # the first channels of the block are those of its 1x1 branch, after BN and ReLU
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep)
        self.spatial: Tensor | None = None

    def _keep(self, module, inputs, output: Tensor) -> None:
        self.spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pool, logits = self.network(images)
        spatial, self.spatial = self.spatial, None
        return {"pool": pool, "spatial": spatial, "logits": logits}

    def warning(self) -> str | None:
        if self.sha256 == OFFICIAL_SHA256:
            return None
        return (
            f"Inception weights are not the published ones (SHA-256 {self.sha256[:8]}..., not "
            f"{OFFICIAL_SHA256[:8]}...): these are not FID, sFID and Inception Score"
        )


def download() -> Path:
    """Return the published weights' file in torch's cache; download it if it is not there."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as URL

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(URL).name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {URL}", file=sys.stderr)
    try:
        torch.hub.download_url_to_file(URL, str(path), hash_prefix=OFFICIAL_SHA256)
    except (URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"no Inception weights: {URL} cannot be fetched ({error}); fetch it elsewhere and give "
            f"--inception-weights FILE"
        ) from None
    return path


def check_weights(path: Path) -> None:
    """Raise `ValueError` unless the file holds tensors alone: torch-fidelity unpickles it."""
    check_file(path, f"--inception-weights {path}")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        fits = weights["fc.weight"].shape == (1008, 2048) and "Mixed_7c.branch1x1.conv.weight"
    except Exception as error:  # torch.load raises whatever a wrong file leads it to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"--inception-weights {path}: not such weights ({reason})") from None
    if not fits or fits not in weights:
        raise ValueError(
            f"--inception-weights {path}: not torch-fidelity's weights of Inception-v3; "
            f"torchvision's are of another network"
        )
