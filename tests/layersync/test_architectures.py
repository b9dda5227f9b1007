"""LayerSync on tiny transformers of other libraries: gradients, output, one step."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from architectures import ARCHITECTURES, cut_behind, docs_table
from launching import ROOT
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from layersync import LayerSync, find_blocks

every = pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.family)


def out(model, batch) -> Tensor:
    """Return what the model returns, one tensor whichever way it is wrapped."""
    returned = model(**batch)
    return returned if isinstance(returned, Tensor) else returned[0]


def captured_loss(arch, model, batch):
    sync = arch.sync(model)
    with sync.capture():
        out(model, batch)
    return sync.loss(), sync


def raw_outputs(arch, model, batch, numbers):
    """Return what blocks return, by hooks: nothing of LayerSync is in the way."""
    blocks, outputs = find_blocks(model, arch.names), {}
    hooks = [
        blocks[n - 1].register_forward_hook(lambda m, a, o, n=n: outputs.update({n: o}))
        for n in numbers
    ]
    returned = out(model, batch)
    for hook in hooks:
        hook.remove()
    return [outputs[n] for n in numbers], returned


def selected(arch, output) -> Tensor:
    """(N, T, D), by hand."""
    select = arch.selector()
    output = select(output) if callable(select) else output if select is None else output[select]
    return output if arch.options.get("batch_first", True) else output.transpose(0, 1)


def by_family(family):
    return next(arch for arch in ARCHITECTURES if arch.family == family)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@every
def test_output_is_the_same_bit_for_bit(arch):
    model, batch = arch.model(), arch.batch()
    torch.manual_seed(0)
    plain = out(model, batch)
    with arch.sync(model).capture():
        torch.manual_seed(0)
        assert out(model, batch).equal(plain)


@every
def test_loss_and_gradients_are_those_of_the_formula_and_end_at_the_student(arch):
    model, batch = arch.model(), arch.batch()
    loss, _ = captured_loss(arch, model, batch)
    loss.backward()
    actual = gradients(model)
    model.zero_grad()

    raw, _ = raw_outputs(arch, model, batch, arch.pair)
    student, teacher = (selected(arch, output) for output in raw)
    assert student.shape[:2] == (2, arch.tokens)
    unit = F.normalize(student, dim=-1), F.normalize(teacher.detach(), dim=-1)
    expected_loss = -(unit[0] * unit[1]).sum(-1).mean()
    expected_loss.backward()
    torch.testing.assert_close(loss, expected_loss)
    torch.testing.assert_close(actual, gradients(model), rtol=1e-3, atol=1e-6)

    for number, block in enumerate(find_blocks(model, arch.names), start=1):
        norm = sum(p.grad.norm() for p in block.parameters() if p.grad is not None)
        assert norm > 0 if number <= arch.pair[0] else norm == 0, number


@every
def test_the_tokens_that_are_compared_are_those_the_output_is_made_of(arch):
    """Neither text nor registers: what the model returns does not depend on theirs."""
    model, batch = arch.model(), arch.batch()
    leaves = cut_behind(find_blocks(model, arch.names)[-1])
    returned = out(model, batch)
    weights = torch.randn(returned.shape, generator=torch.Generator().manual_seed(0))
    (returned * weights).sum().backward()
    grads = [torch.zeros(1) if t is None or t.grad is None else t.grad for t in leaves]
    compared = selected(arch, tuple(grads) if len(grads) > 1 else grads[0])
    assert compared.shape[:2] == (2, arch.tokens)
    assert (compared != 0).any(-1).all()
    assert sum((gradient != 0).any(-1).sum() for gradient in grads) == 2 * arch.tokens


@every
def test_one_step_on_the_loss_raises_the_similarity(arch):
    model, batch = arch.model(), arch.batch()
    loss, sync = captured_loss(arch, model, batch)
    before = sync.similarity()[arch.pair]
    loss.backward()
    norm = torch.stack([gradient.norm() for gradient in gradients(model).values()]).norm()
    torch.optim.SGD(model.parameters(), lr=0.01 / norm.item()).step()
    after = captured_loss(arch, model, batch)[1].similarity()[arch.pair]
    assert after > before + 1e-6


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("family", ["Flux", "Wan"])
def test_gradient_checkpointing_of_diffusers_changes_no_gradient(family, use_reentrant):
    arch = by_family(family)
    model, batch = arch.model(), arch.batch()
    runs = []
    for checkpointing in (False, True):
        if checkpointing:
            recompute = partial(checkpoint, use_reentrant=use_reentrant)
            model.enable_gradient_checkpointing(recompute)
        sync = arch.sync(model)
        with sync.capture():
            returned = out(model, batch)
        (returned.square().mean() + sync.loss()).backward()
        runs.append({name: gradient.clone() for name, gradient in gradients(model).items()})
        model.zero_grad()
    torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-6)


def test_compiled_blocks_have_the_gradients_of_eager():
    arch = by_family("Flux")
    model, batch = arch.model(), arch.batch()
    runs = []
    for compiled in (False, True):
        if compiled:
            torch._dynamo.reset()
            model.compile_repeated_blocks(backend="aot_eager")
        loss, _ = captured_loss(arch, model, batch)
        loss.backward()
        runs.append(gradients(model))
        model.zero_grad()
    eager, compiled = runs
    assert eager.keys() <= compiled.keys()
    for name, gradient in compiled.items():  # what had no gradient may have one of zeros
        expected = eager.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_two_streams_without_select_are_refused_with_what_there_is():
    flux = by_family("Flux")
    model = flux.model()
    sync = LayerSync.from_names(model, flux.names, [(2, 3)])
    with sync.capture():
        model(**flux.batch())
    message = (
        r"block 2 \(transformer_blocks\.1, FluxTransformerBlock\) returned tuple of "
        r"0: \(2, 5, 32\), 1: \(2, 16, 32\): several tensors.* select=0 or select=1"
    )
    with pytest.raises(ValueError, match=message):
        sync.loss()


def test_the_table_in_the_docs_is_the_one_that_is_tested():
    assert docs_table() in (ROOT / "docs" / "layersync.md").read_text()
