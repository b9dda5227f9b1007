"""The examples run as processes, with fewer steps: the similarity goes up, what they save loads."""

import json
import os
import re
import subprocess
import sys

import pytest
from forking import ENVIRONMENT, forked_python
from launching import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name: str, *arguments, python: str = sys.executable) -> str:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [python, ROOT / "examples" / name, *map(str, arguments)],
        env=ENVIRONMENT | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def similarities(printed: str) -> list[float]:
    return [float(value) for value in re.findall(r"similarity (\d\.\d+)", printed)]


def test_lora_on_wan_raises_the_similarity_and_saves_adapters_that_load(tmp_path):
    from diffusers import WanTransformer3DModel
    from safetensors.torch import load_file

    printed = run(
        *("wan_lora.py", "--base-steps", 10, "--steps", 20, "--weight", 1, "--output", tmp_path)
    )
    before, after = similarities(printed.split("lambda 1.0")[1])
    assert after > before + 0.01

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


def test_accelerate_loop_on_sd3_raises_the_similarity_and_resumes(tmp_path):
    settings = {"layersync_enabled": True, "layersync_student_block": 2}
    settings |= {"layersync_teacher_block": 5, "layersync_lambda": 5.0}
    short = ["--batch-size", 8, "--lr", 2e-3, "--layersync-from", 50, "--output", tmp_path]
    command = ["sd3_accelerate.py", *short, "--layersync", json.dumps(settings)]
    first, second = (
        run(*command, "--steps", 75),
        run(*command, "--steps", 100, "--resume", python=forked_python()),
    )
    assert "from step 75 to 100" in second
    assert similarities(second)[-1] > similarities(first)[-1]
    from diffusers import SD3Transformer2DModel

    saved = SD3Transformer2DModel.from_pretrained(tmp_path / "transformer")
    assert all(parameter.isfinite().all() for parameter in saved.parameters())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_each_example_says_how_it_is_started_and_is_in_the_docs(path):
    assert f"python examples/{path.name}" in path.read_text()
    assert f"python examples/{path.name}" in (ROOT / "docs" / "layersync.md").read_text()
