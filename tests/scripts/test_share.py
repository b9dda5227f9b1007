"""scripts/share.py: a folder and a repository of the hub that SiT.from_pretrained reads back."""

import dataclasses
import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from fake_hub import FakeHub
from forking import ENVIRONMENT
from launching import ROOT, check, run
from PIL import Image

from models import SiT
from models.trained import hash_weights, load_trained
from scripts.share import Sharing, share

MADE_BEFORE = ROOT / "tests" / "golden" / "made_before"
RECORD = MADE_BEFORE / "samples.metrics.json"
DIGEST = json.loads(RECORD.read_text())["recipe"]["weights_sha256"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "0000002.pt"
    path.write_bytes(lzma.decompress((MADE_BEFORE / "checkpoint.pt.xz").read_bytes()))
    return path


def test_the_folder_is_a_checkpoint_for_every_command(checkpoint, tmp_path):
    folder = tmp_path / "tiny"
    said = check(
        "scripts/share.py", checkpoint, "--licence", "mit", "--out", folder, "--metrics", RECORD
    )
    assert said.startswith(f"{folder}: SiT-Ti/2, 92 tensors")
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    model = SiT.from_pretrained(folder)
    assert hash_weights(model.state_dict()) == DIGEST and not model.training
    before, after = load_trained(checkpoint), load_trained(folder)
    assert before.arch == after.arch and after.step == 2 and after.codec == "none"
    assert json.loads((folder / "config.json").read_text())["weights_sha256"] == DIGEST
    check(
        "sample.py", "--ckpt", folder, "--classes", 3, "--num-sampling-steps", 3,
        "--sampling-method", "euler", "--out", tmp_path / "a.png",
    )  # fmt: skip


def test_the_page_says_what_was_trained_and_scored(checkpoint, tmp_path):
    picture = tmp_path / "a.png"
    Image.new("RGB", (2, 2), "red").save(picture)
    share(
        Sharing(
            str(checkpoint), "cc-by-4.0", str(tmp_path / "b"), "ema", (str(RECORD),), str(picture)
        )
    )
    page = (tmp_path / "b" / "README.md").read_text()
    head, text = page.split("---\n")[1:]
    about = yaml.safe_load(head)
    assert about["license"] == "cc-by-4.0" and "layersync" in about["tags"]
    scores = {
        each["type"]: each["value"] for each in about["model-index"][0]["results"][0]["metrics"]
    }
    assert scores == json.loads(RECORD.read_text())["metrics"]
    for said in (
        "with LayerSync (2 -> 5, lambda 0.3) after 2 steps",
        "| data | digits |",
        "| steps | 2 |",
        "| images seen | 16 |",
        "| pairs, student -> teacher | 2 -> 5 |",
        "| lambda | 0.3 |",
        "| pixel_frechet | 49.8639 |",
        "32 samples; heun2 ODE of 5 points, NFE 8; no guidance; random labels; seed 0",
        "these numbers are not FID",
        "![Samples](samples.png)",
        "cc-by-4.0",
        DIGEST,
    ):
        assert said in text, said
    assert (tmp_path / "b" / "samples.png").read_bytes() == picture.read_bytes()


@pytest.mark.parametrize(
    ("prediction", "said"),
    [
        ("velocity", "velocity matching with"),
        ("score", "score matching with"),
        ("noise", "noise prediction with"),
    ],
)
def test_the_page_names_what_the_network_predicts(checkpoint, tmp_path, prediction, said):
    content = torch.load(checkpoint)
    content["config"]["transport"]["prediction"] = prediction
    torch.save(content, tmp_path / "a.pt")
    share(Sharing(str(tmp_path / "a.pt"), "mit", str(tmp_path / "a")))
    assert f"trained by {said} LayerSync" in (tmp_path / "a" / "README.md").read_text()


def test_nothing_tells_where_the_run_lay(checkpoint, tmp_path):
    content = torch.load(checkpoint)
    content["config"] |= {"data_path": "/home/me/secret/imagenet", "results_dir": "/home/me/runs"}
    torch.save(content, tmp_path / "a.pt")
    share(Sharing(str(tmp_path / "a.pt"), "mit", str(tmp_path / "a")))
    for path in (tmp_path / "a").iterdir():
        assert b"/home/me" not in path.read_bytes()
    assert load_trained(tmp_path / "a").settings["data_path"] == "imagenet"


def test_an_original_checkpoint_tells_less(checkpoint, tmp_path):
    weights = load_trained(checkpoint).weights
    torch.save(dict(weights), tmp_path / "plain.pt")
    share(Sharing(str(tmp_path / "plain.pt"), "mit", str(tmp_path / "plain")))
    page = (tmp_path / "plain" / "README.md").read_text()
    assert "does not tell how it was trained" in page and "Not evaluated." in page
    assert hash_weights(SiT.from_pretrained(tmp_path / "plain").state_dict()) == DIGEST
    repa = dict(weights) | {"projectors.0.weight": torch.zeros(2)}
    torch.save(repa, tmp_path / "repa.pt")
    share(Sharing(str(tmp_path / "repa.pt"), "mit", str(tmp_path / "repa")))
    with pytest.raises(ValueError, match="whose time runs the other way"):
        SiT.from_pretrained(tmp_path / "repa")


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (dict(source="gone.pt"), "checkpoint gone.pt: no such file"),
        (dict(metrics=("README.md",)), "--metrics README.md: no record of"),
        (dict(private=True), "--private has no effect without --push-to-hub"),
        (dict(licence=" "), "name the licence"),
        (dict(picture="gone.png"), "--picture gone.png: no such file"),
        (dict(push_to_hub="name"), "--push-to-hub name: it must be ORG/NAME"),
        (dict(out="docs"), "--out docs: it holds other files"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    checkpoint, tmp_path, monkeypatch, change, refusal
):
    monkeypatch.chdir(ROOT)
    good = Sharing(str(checkpoint), "mit", str(tmp_path / "c"))
    with pytest.raises(ValueError, match=refusal):
        share(dataclasses.replace(good, **change))
    assert not (tmp_path / "c").exists()


def test_scores_of_other_weights_are_refused(checkpoint, tmp_path):
    record = json.loads(RECORD.read_text())
    record["recipe"]["weights_sha256"] = "0" * 64
    (tmp_path / "a.metrics.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"of the weights 000000000000\.\.\., the ema of"):
        share(
            Sharing(
                str(checkpoint),
                "mit",
                str(tmp_path / "c"),
                metrics=(str(tmp_path / "a.metrics.json"),),
            )
        )


def test_without_a_connection_nothing_is_published(checkpoint, tmp_path):
    done = run(
        "scripts/share.py", checkpoint, "--license", "mit", "--push-to-hub", "org/tiny",
        "--out", tmp_path / "d",
    )  # fmt: skip
    assert done.returncode == 2 and not (tmp_path / "d").exists()
    assert "--push-to-hub org/tiny: the" in done.stderr and done.stderr.count("\n") == 1


READ_BACK = """
from models import SiT
from models.trained import hash_weights, load_trained
print(hash_weights(SiT.from_pretrained("org/tiny").state_dict()))
print(hash_weights(load_trained("layersync-xl-2").weights))
"""


@pytest.mark.slow
def test_published_and_read_back(checkpoint, tmp_path):
    """The real client on a hub of ours: pushed, fetched, and a short name whose file changes."""
    with FakeHub() as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "secret", "HF_HOME": str(tmp_path / "hf")}
        own |= {"LAYERSYNC_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}

        def python(*words) -> subprocess.CompletedProcess:
            env = ENVIRONMENT | own | {"PYTHONPATH": str(ROOT)}
            settings = dict(cwd=tmp_path, capture_output=True, text=True, timeout=600)
            return subprocess.run([sys.executable, *map(str, words)], env=env, **settings)

        words = ["--licence", "mit", "--push-to-hub", "org/tiny"]
        done = python(ROOT / "scripts" / "share.py", checkpoint, *words)
        assert done.returncode == 0, done.stderr
        assert set(hub.repos["org/tiny"]) == {"README.md", "config.json", "model.safetensors"}
        assert "published: " in done.stdout and (tmp_path / "shared" / "tiny").is_dir()
        hub.repos["Yassaman/LayerSync"] = {"checkpoint.pt": checkpoint.read_bytes()}
        done = python("-c", READ_BACK)
        assert done.stdout.split() == [DIGEST, DIGEST], done.stderr
        recorded = json.loads((tmp_path / "cache" / "checksums.json").read_text())
        assert list(recorded) == ["layersync-xl-2"]
        for path in Path(tmp_path / "hf").rglob("checkpoint.pt"):
            path.write_bytes(checkpoint.read_bytes() + b"more")
        done = python("-c", READ_BACK)
        assert "checkpoint layersync-xl-2: " in done.stderr and "at its first fetch" in done.stderr
