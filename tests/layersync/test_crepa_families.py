"""CREPA on tiny video transformers of diffusers, proven as LayerSync is, and both at once."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from architectures import ARCHITECTURES, cut_behind
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from layersync import capture, find_blocks

VIDEOS = [arch for arch in ARCHITECTURES if arch.frames]
FRAMES = 2
every = pytest.mark.parametrize("arch", VIDEOS, ids=lambda arch: arch.family)


def crepa_of(arch, model, **options):
    torch.manual_seed(5)
    return arch.crepa(model, **options)


def out(model, batch) -> Tensor:
    return model(**batch)[0]


def captured(arch, model, batch, crepa=None):
    crepa = crepa or crepa_of(arch, model)
    with crepa.capture():
        returned = out(model, batch)
    return returned, crepa.loss(), crepa


def raw_states(arch, model, batch) -> list[Tensor]:
    """Return what the pair's blocks return, by hooks, as (B, T, N, D)."""
    blocks, outputs, select = find_blocks(model, arch.names), {}, arch.selector()
    hooks = [
        blocks[n - 1].register_forward_hook(lambda m, a, o, n=n: outputs.update({n: o}))
        for n in arch.pair
    ]
    out(model, batch)
    for hook in hooks:
        hook.remove()
    chosen = [outputs[n] if select is None else outputs[n][select] for n in arch.pair]
    return [states.unflatten(1, (FRAMES, -1)) for states in chosen]


def formula(crepa, student, teacher) -> Tensor:
    """Minus the mean of S over frames: with two, each has the other as its neighbour."""
    norm, linear = crepa.projector
    p = F.normalize(linear(norm(student.float())), dim=-1)
    f = F.normalize(teacher.detach().float(), dim=-1)
    c = (p[:, :, None] * f[:, None]).sum(-1).mean(-1)  # (B, 2, 2)
    kernel = torch.tensor([[1, 1 / torch.e], [1 / torch.e, 1]])
    return -(c * kernel).sum(2).mean()


def gradients(*modules):
    return [
        {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        for module in modules
    ]


def test_the_five_families_are_there():
    families = {"Wan", "CogVideoX", "LTX-Video", "HunyuanVideo", "Mochi"}
    assert {arch.family for arch in VIDEOS} == families


@every
def test_output_is_the_same_bit_for_bit_and_each_regulariser_has_its_loss(arch):
    model, batch = arch.model(), arch.batch()
    sync, crepa, plain = arch.sync(model), crepa_of(arch, model), out(model, batch)
    with capture(sync, crepa):
        assert out(model, batch).equal(plain)
    both = sync.loss(), crepa.loss()
    with sync.capture():
        out(model, batch)
    assert sync.loss().equal(both[0])
    assert captured(arch, model, batch, crepa)[1].equal(both[1])


@every
def test_loss_and_gradients_are_those_of_the_formula_and_end_at_the_student(arch):
    model, batch = arch.model(), arch.batch()
    _, loss, crepa = captured(arch, model, batch)
    loss.backward()
    actual = gradients(model, crepa.projector)
    for module in (model, crepa.projector):
        module.zero_grad()
    expected = formula(crepa, *raw_states(arch, model, batch))
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(actual, gradients(model, crepa.projector), rtol=1e-3, atol=1e-6)
    assert len(actual[1]) == 4 and all(gradient.norm() > 0 for gradient in actual[1].values())
    for number, block in enumerate(find_blocks(model, arch.names), start=1):
        norm = sum(p.grad.norm() for p in block.parameters() if p.grad is not None)
        assert norm > 0 if number <= arch.pair[0] else norm == 0, number


def as_frames(arch, returned) -> list[Tensor]:
    """The frames of what the model returns, as diffusers' pipelines read it."""
    if arch.family == "LTX-Video":
        from diffusers import LTXPipeline

        returned = LTXPipeline._unpack_latents(returned, FRAMES, 4, 4)
    return list(returned.unbind(1 if arch.family == "CogVideoX" else 2))


@every
def test_the_tokens_of_a_frame_are_those_the_output_frame_is_made_of(arch):
    model, batch = arch.model(), arch.batch()
    leaves = cut_behind(find_blocks(model, arch.names)[-1])
    frames = as_frames(arch, out(model, batch))
    select = arch.selector()
    leaf = leaves[0] if select is None else leaves[select]
    assert len(frames) == FRAMES
    for i, frame in enumerate(frames):
        weights = torch.randn(frame.shape, generator=torch.Generator().manual_seed(i))
        (gradient,) = torch.autograd.grad((frame * weights).sum(), leaf, retain_graph=True)
        touched = (gradient.unflatten(1, (FRAMES, -1)) != 0).any(-1)  # (B, T, N)
        assert touched[:, i].all() and touched.sum() == touched[:, i].numel()


@every
def test_one_step_on_the_loss_raises_the_score(arch):
    model, batch = arch.model(), arch.batch()
    _, loss, crepa = captured(arch, model, batch)
    before = crepa.logs()["crepa_alignment_score"]
    loss.backward()
    parameters = [*model.parameters(), *crepa.parameters()]
    norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
    torch.optim.SGD(parameters, lr=0.01 / norm.item()).step()
    captured(arch, model, batch, crepa)
    assert crepa.logs()["crepa_alignment_score"] > before + 1e-6


def step(arch, model, batch, crepa):
    """The gradients of a training step with both regularisers."""
    sync = arch.sync(model)
    with capture(sync, crepa):
        returned = out(model, batch)
    (returned.square().mean() + sync.loss() + crepa.loss()).backward()
    grads = gradients(model, crepa.projector)
    model.zero_grad()
    crepa.projector.zero_grad()
    return grads


@pytest.mark.parametrize("use_reentrant", [True, False])
@every
def test_gradient_checkpointing_changes_no_gradient(arch, use_reentrant):
    if arch.family == "Mochi" and use_reentrant:
        pytest.skip("its blocks share a graph outside them, which that kind runs through twice")
    model, batch = arch.model(), arch.batch()
    crepa = crepa_of(arch, model)
    expected = step(arch, model, batch, crepa)
    model.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=use_reentrant))
    torch.testing.assert_close(step(arch, model, batch, crepa), expected, rtol=1e-4, atol=5e-6)


def compilations():
    """Each family, traced; those whose blocks return one tensor and two also by autograd's tracer.

    Tracing forward and backward of the others too takes twice as long.
    """
    for arch in VIDEOS:
        quick = arch.family in ("Wan", "CogVideoX")
        marks = () if quick else pytest.mark.slow
        yield pytest.param(arch, "aot_eager", marks=marks, id=f"{arch.family}-aot_eager")
        if not quick:
            yield pytest.param(arch, "eager", id=f"{arch.family}-eager")


@pytest.mark.parametrize(("arch", "backend"), compilations())
def test_compiled_blocks_have_the_gradients_of_eager(arch, backend):
    model, batch = arch.model(), arch.batch()
    crepa = crepa_of(arch, model)
    expected = step(arch, model, batch, crepa)
    torch._dynamo.reset()
    for block in find_blocks(model, arch.names):
        block.compile(backend=backend)
    actual = step(arch, model, batch, crepa)
    for eager, compiled in zip(expected, actual, strict=True):
        assert eager.keys() <= compiled.keys()
        for name, gradient in compiled.items():  # what had no gradient may have one of zeros
            wanted = eager.get(name, torch.zeros_like(gradient))
            torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


@every
def test_under_autocast_the_loss_is_float32s_of_the_states_that_there_are(arch):
    model, batch = arch.model(), arch.batch()
    crepa = crepa_of(arch, model)
    with torch.autocast("cpu", torch.bfloat16):
        _, loss, _ = captured(arch, model, batch, crepa)
        states = raw_states(arch, model, batch)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, formula(crepa, *states), rtol=0, atol=1e-5)
    loss.backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in crepa.parameters()
    )
