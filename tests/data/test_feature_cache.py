"""The feature cache: what is altered or missing is refused when it is opened."""

import json

import numpy as np
import pytest

from data.feature_cache import FeatureSettings, read_settings, write_settings

SETTINGS = FeatureSettings("vit", 32, images=3, side=2, width=5, source_fingerprint="0" * 16)


@pytest.fixture
def root(tmp_path):
    np.save(tmp_path / "features.npy", np.zeros(SETTINGS.shape, np.float16))
    write_settings(tmp_path, SETTINGS)
    return tmp_path


def edit(root, **changes) -> None:
    content = json.loads((root / "manifest.json").read_text()) | changes
    content = {key: value for key, value in content.items() if value is not None}
    (root / "manifest.json").write_text(json.dumps(content))


def test_what_was_written_is_read(root):
    assert read_settings(root) == SETTINGS


ALTERED = {
    "missing key": (lambda r: edit(r, width=None), r"without \['width'\]"),
    "text for a number": (lambda r: edit(r, side="2"), "side is '2'"),
    "not JSON": (lambda r: (r / "manifest.json").write_text("{"), "not JSON"),
    "a list": (lambda r: (r / "manifest.json").write_text("[]"), "no JSON object"),
    "other shape": (lambda r: edit(r, images=4), r"its manifest says \(4, 2, 4, 5\)"),
    "no array": (lambda r: (r / "features.npy").write_text("x"), "no complete cache"),
    "gone": (lambda r: (r / "features.npy").unlink(), "no complete cache"),
    "other type": (
        lambda r: np.save(r / "features.npy", np.zeros(SETTINGS.shape)),
        "features.npy is float64",
    ),
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_cache_is_refused(root, what):
    act, message = ALTERED[what]
    act(root)
    with pytest.raises(ValueError, match=message):
        read_settings(root)
