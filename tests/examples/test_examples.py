"""The examples run, with fewer steps: the similarity goes up, what they save loads."""

import argparse
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from forking import ENVIRONMENT, forked_python
from launching import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name: str, *arguments) -> str:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [forked_python(), ROOT / "examples" / name, *map(str, arguments)],
        env=ENVIRONMENT | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def similarities(printed: str) -> list[float]:
    return [float(value) for value in re.findall(r"similarity (\d\.\d+)", printed)]


def test_lora_on_wan_raises_both_similarities_and_saves_adapters_that_load(tmp_path):
    from diffusers import WanTransformer3DModel
    from safetensors.torch import load_file

    short = ["--base-steps", 10, "--steps", 20, "--weight", 1, "--output", tmp_path]
    printed = run("wan_lora.py", "--crepa", *short).split("lambda 1.0")[1]
    before, after = similarities(printed)
    assert after > before + 0.01
    before, after = (float(value) for value in re.findall(r"CREPA (-?\d\.\d+)", printed))
    assert after > before + 0.1
    projector = torch.load(tmp_path / "crepa.pt", weights_only=True)
    assert projector["projector.1.weight"].shape == (64, 64)

    tensors = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert len(tensors) == 8 * (4 + 4 + 2) * 2  # blocks, layers, A and B
    learned = [value for name, value in tensors.items() if "lora_B" in name]
    assert all(value.abs().sum() > 0 for value in learned)  # they start at 0
    wan = WanTransformer3DModel(
        **dict(num_attention_heads=4, attention_head_dim=16, in_channels=4, out_channels=4),
        **dict(text_dim=32, freq_dim=32, ffn_dim=128, num_layers=8, rope_max_seq_len=32),
    )
    wan.load_lora_adapter(tensors, prefix="transformer")
    loaded = dict(wan.named_parameters())["blocks.7.attn1.to_q.lora_B.default_0.weight"]
    assert loaded.equal(tensors["transformer.blocks.7.attn1.to_q.lora_B.weight"])


def test_the_published_lora_has_blocks_9_and_17_and_lambda_0002():
    text = (ROOT / "examples" / "wan_lora.py").read_text()
    assert "--student 9 --teacher 17 --weight 0.002" in text


@pytest.fixture
def smoothness(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import video_smoothness

    return video_smoothness


def test_frames_of_drifting_squares_have_the_cosine_that_the_page_names(smoothness):
    videos = smoothness.drifting_squares([(1, 0), (-1, 0)], count=16)["latents"]
    assert smoothness.frame_smoothness(videos) == pytest.approx(52 / 64)
    still = videos[:, :, :1].expand_as(videos)
    assert smoothness.frame_smoothness(still) == pytest.approx(1)


def test_the_ways_are_measured_on_the_same_batches(smoothness, monkeypatch):
    """Twice the same way has the same numbers; another has others."""
    ways = {"once": (0.0, 0.0), "twice": (0.0, 0.0), "CREPA": (0.0, 0.5)}
    monkeypatch.setattr(smoothness, "WAYS", ways)
    monkeypatch.setattr(smoothness, "VIDEOS", 2)
    monkeypatch.setattr(smoothness, "EULER_STEPS", 2)
    args = dict(student=3, teacher=6, rank=2, lr=2e-3, batch_size=4, base_steps=2, steps=2)
    measured = smoothness.measure(0, argparse.Namespace(**args))
    assert measured["the real videos"] == (None, pytest.approx(52 / 64))
    assert measured["once"] == measured["twice"] != measured["CREPA"]
    assert all(-1 <= value <= 1 for way in ways for value in measured[way])


@pytest.mark.slow
def test_accelerate_loop_on_sd3_raises_the_similarity_and_resumes(tmp_path):
    settings = {"layersync_enabled": True, "layersync_student_block": 2}
    settings |= {"layersync_teacher_block": 5, "layersync_lambda": 5.0}
    short = ["--batch-size", 8, "--lr", 2e-3, "--layersync-from", 50, "--output", tmp_path]
    command = ["sd3_accelerate.py", *short, "--layersync", json.dumps(settings)]
    first, second = (
        run(*command, "--steps", 75),
        run(*command, "--steps", 100, "--resume"),
    )
    assert "from step 75 to 100" in second
    assert similarities(second)[-1] > similarities(first)[-1]
    from diffusers import SD3Transformer2DModel

    saved = SD3Transformer2DModel.from_pretrained(tmp_path / "transformer")
    assert all(parameter.isfinite().all() for parameter in saved.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_each_example_starts_from_nothing(path):
    """Everything that it imports at its beginning is there, also where nothing else has run."""
    done = subprocess.run([sys.executable, path, "--help"], env=ENVIRONMENT | {"PYTHONPATH": ROOT})
    assert done.returncode == 0


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_each_example_says_how_it_is_started_and_is_in_the_docs(path):
    assert f"python examples/{path.name}" in path.read_text()
    assert f"python examples/{path.name}" in (ROOT / "docs" / "layersync.md").read_text()
