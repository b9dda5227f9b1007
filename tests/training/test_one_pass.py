"""One pass for AdamW, average and norm: a kernel for GPUs, interpreted and compiled without one."""

import re

import pytest
import torch
from launching import SHARDS


def test_it_is_adamw_average_and_norm_and_the_update_of_a_network(fork_server):
    pytest.importorskip("triton")
    program = "tests/training/interpreted_step.py"
    done = fork_server.start([program], environment={"TRITON_INTERPRET": "1"})
    assert done.wait() == 0, done.stderr[-3000:]
    assert done.stdout.count("same:") == 6 + SHARDS


@pytest.mark.skipif(
    not torch.__version__.startswith("2.15."),
    reason="each version of torch has its own Triton, whose compiler this test calls",
)
@pytest.mark.parametrize(("half", "width"), [(False, 4), (False, 1), (True, 8), (True, 1)])
def test_for_an_h100_it_is_compiled_to_loads_of_16_bytes(half, width, tmp_path, monkeypatch):
    """Each of 256 threads has 16 elements: of g, w, m, v and e 64 bytes each, or 32 in bf16."""
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from training.one_pass import BLOCK, make_step

    names = make_step.arg_names
    constants = {"HALF": half, "WIDTH": width, "SIZE": BLOCK}
    numbers = dict.fromkeys(("pointers", "gradients", "sizes", "owners", "starts"), "*i64")
    types = {name: "fp32" for name in names} | numbers
    types |= {"squares": "*fp32", "scale": "*fp32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(make_step, types, constants)
    target = GPUTarget("cuda", 90, 32)
    kernel = triton.compile(source, target=target, options={"num_warps": 8})
    wide = re.findall(r"(ld|st)\.global\S*\.v4\.b32", kernel.asm["ptx"])
    if width == 1:
        assert not wide
    else:
        gradient = 2 if half else 4  # instructions of 16 bytes
        assert wide.count("ld") == 4 * 4 + gradient
        assert wide.count("st") == 4 * 4 + (2 if half else 0)
