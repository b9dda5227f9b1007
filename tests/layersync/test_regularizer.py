"""The loss: golden values, cosines by hand, who gets a gradient, precision, and what is refused."""

import pytest
import torch
from torch import nn

from layersync import LayerSync
from layersync.alignment import token_cosine
from transport import create_transport


class Emit(nn.Module):
    """A block that returns `value` whatever it is given."""

    def __init__(self, value):
        super().__init__()
        learn = isinstance(value, torch.Tensor) and value.is_floating_point()
        self.value = nn.Parameter(value) if learn else value

    def forward(self):
        return self.value


def sync_of(*values, pairs=((1, 2),)):
    """A LayerSync that has captured blocks returning these values."""
    blocks = [Emit(value) for value in values]
    sync = LayerSync(blocks, pairs)
    with sync.capture():
        for block in blocks:
            block()
    return sync


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    """(N, T), by hand and in float64."""
    a, b = a.detach().double(), b.detach().double()
    return (a * b).sum(-1) / (a.square().sum(-1).sqrt() * b.square().sum(-1).sqrt())


def forward(sync, model, batch):
    with sync.capture():
        return model(*batch)


def block_outputs(model, batch, numbers):
    outputs = {}
    for number in numbers:
        model.blocks[number - 1].register_forward_hook(
            lambda m, a, output, number=number: outputs.update({number: output})
        )
    model(*batch)
    return [outputs[number] for number in numbers]


@pytest.mark.golden_family("layer_sync")
def test_layer_sync_is_golden(key, golden, check_golden, golden_model):
    velocity, sync_loss = golden_losses(golden, golden_model)
    if key == "layer_sync/total":
        check_golden(key, velocity.mean() + 0.2 * sync_loss.mean())
    else:
        expected = golden(key).mean(dim=1)
        assert (sync_loss - expected).norm() <= 1e-4 * expected.norm()
        x_t = golden("plan/Linear/xt")
        pair = block_outputs(golden_model, (x_t, golden("in/t"), golden("in/y")), (2, 4))
        check_golden(key, -cosine(*pair).float())


@pytest.mark.golden_family("grad")
def test_gradient_of_the_total_is_golden(key, golden, check_golden, golden_model):
    velocity, sync_loss = golden_losses(golden, golden_model)
    (velocity.mean() + 0.2 * sync_loss.mean()).backward()
    check_golden(key, golden_model.get_parameter(key.removeprefix("grad/")).grad)


def golden_losses(golden, model):
    """Per-sample velocity and LayerSync losses of the pair (2, 4)."""
    sync = LayerSync(model.blocks, [(2, 4)])
    with sync.capture():
        losses = create_transport().training_losses(
            model, golden("in/x1"), {"y": golden("in/y")}, t=golden("in/t"), x0=golden("in/x0")
        )
    return losses["loss"], sync.loss(reduction="none")


def test_loss_is_minus_the_cosine():
    student = torch.tensor([[[1.0, 0.0], [3.0, 4.0]], [[0.0, -2.0], [1.0, 1.0]]])
    teacher = torch.tensor([[[1.0, 1.0], [4.0, 3.0]], [[0.0, 5.0], [-1.0, 1.0]]])
    per_sample = -torch.tensor([(0.5**0.5 + 24 / 25) / 2, (-1.0 + 0.0) / 2])
    torch.testing.assert_close(sync_of(student, teacher).loss(reduction="none"), per_sample)
    torch.testing.assert_close(sync_of(student, teacher).loss(), per_sample.mean())


def test_loss_ignores_the_length_of_tokens_and_is_minus_1_for_parallel_ones():
    z = tokens(2, 5, 8)
    torch.testing.assert_close(sync_of(z, 7 * z).loss(), torch.tensor(-1.0))
    torch.testing.assert_close(sync_of(z, -0.1 * z).loss(), torch.tensor(1.0))
    a, b = tokens(2, 5, 8), tokens(2, 5, 8, seed=1)
    torch.testing.assert_close(sync_of(3 * a, b).loss(), sync_of(a, 0.5 * b).loss())


def test_reduction_none_is_per_sample_and_averages_to_the_scalar():
    a, b = tokens(3, 5, 8), tokens(3, 5, 8, seed=1)
    per_sample = sync_of(a, b).loss(reduction="none")
    torch.testing.assert_close(per_sample, -cosine(a, b).mean(1).float())
    torch.testing.assert_close(per_sample.mean(), sync_of(a, b).loss())
    with pytest.raises(ValueError, match=r"reduction.*'sum'"):
        sync_of(a, b).loss(reduction="sum")


def test_several_pairs_are_averaged(golden_model, golden_batch):
    def loss(pairs):
        sync = LayerSync(golden_model.blocks, pairs)
        forward(sync, golden_model, golden_batch)
        return sync.loss(reduction="none")

    both, first, last = loss([(2, 4), (3, 5)]), loss([(2, 4)]), loss([(3, 5)])
    torch.testing.assert_close(both, (first + last) / 2)
    assert not torch.allclose(first, last)


def test_similarity_is_minus_the_loss_for_each_pair():
    a, b, c = (tokens(2, 5, 8, seed=seed) for seed in range(3))
    sync = sync_of(a, b, c, pairs=[(1, 2), (1, 3)])
    sync.loss()
    expected = {(1, 2): cosine(a, b).mean().item(), (1, 3): cosine(a, c).mean().item()}
    assert sync.similarity() == pytest.approx(expected, abs=1e-6)
    assert all(type(value) is float for value in sync.similarity().values())
    assert not any(value.requires_grad for value in sync.similarity_tensors().values())
    one = sync_of(a, b)
    loss = one.loss().item()
    assert one.similarity() == {(1, 2): pytest.approx(-loss)}


def test_similarity_belongs_to_the_last_capture():
    sync = sync_of(tokens(2, 5, 8), tokens(2, 5, 8, seed=1))
    with pytest.raises(RuntimeError, match="loss"):
        sync.similarity()
    sync.loss()
    sync.similarity()
    with sync.capture():
        pass
    with pytest.raises(RuntimeError, match="loss"):
        sync.similarity()


def test_gradient_reaches_the_student_and_what_is_below_and_nothing_above(
    golden_model, golden_batch
):
    sync = LayerSync(golden_model.blocks, [(2, 4)])
    forward(sync, golden_model, golden_batch)
    sync.loss().backward()
    for number, block in enumerate(golden_model.blocks, start=1):
        gradients = [parameter.grad for parameter in block.parameters()]
        if number <= 2:
            assert sum(gradient.norm() for gradient in gradients) > 0
        else:
            assert gradients == [None] * len(gradients)
    assert golden_model.x_embedder.proj.weight.grad.norm() > 0
    assert golden_model.final_layer.linear.weight.grad is None


def test_gradient_is_that_of_the_cosine_with_a_constant_teacher():
    a, b = tokens(2, 3, 4), tokens(2, 3, 4, seed=1)
    blocks = [Emit(a), Emit(b)]
    sync = LayerSync(blocks, [(1, 2)])
    with sync.capture():
        _ = [block() for block in blocks]
    sync.loss().backward()
    # d cos / d a = (b / |b| - cos a / |a|) / |a|, and there are 6 tokens
    unit_a, unit_b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    expected = -(unit_b - cosine(a, b)[..., None].float() * unit_a) / a.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(blocks[0].value.grad, expected / 6)
    assert blocks[1].value.grad is None


def test_a_block_may_be_student_and_teacher():
    a, b, c = (tokens(2, 3, 4, seed=seed) for seed in range(3))
    blocks = [Emit(a), Emit(b), Emit(c)]
    sync = LayerSync(blocks, [(1, 2), (2, 3)])
    with sync.capture():
        _ = [block() for block in blocks]
    sync.loss().backward()
    alone = [Emit(b), Emit(c)]
    pair = LayerSync(alone, [(1, 2)])
    with pair.capture():
        _ = [block() for block in alone]
    pair.loss().backward()
    torch.testing.assert_close(blocks[1].value.grad, alone[0].value.grad / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tokens_are_compared_in_float32(dtype):
    a, b = (tokens(2, 5, 64, seed=seed).to(dtype) for seed in (0, 1))
    sync = sync_of(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sync.loss(reduction="none")
    assert loss.dtype == torch.float32
    # to 1e-6, where half precision would be off by 1e-3
    torch.testing.assert_close(loss, -cosine(a, b).mean(1).float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [3e4, 1e-6])
def test_float16_tokens_whose_square_leaves_the_range_give_the_loss_and_a_finite_gradient(size):
    a, b = (tokens(2, 5, 8, seed=seed).sign().mul(size).half() for seed in (0, 1))
    blocks = [Emit(a), Emit(b)]
    sync = LayerSync(blocks, [(1, 2)])
    with sync.capture():
        _ = [block() for block in blocks]
    loss = sync.loss()
    loss.backward()
    torch.testing.assert_close(loss, -cosine(a, b).mean().float())
    assert blocks[0].value.grad.isfinite().all()


def test_zero_tokens_give_no_nan():
    zero = torch.zeros(1, 2, 4)
    blocks = [Emit(zero), Emit(tokens(1, 2, 4))]
    sync = LayerSync(blocks, [(1, 2)])
    with sync.capture():
        _ = [block() for block in blocks]
    loss = sync.loss()
    loss.backward()
    assert loss.item() == 0
    assert blocks[0].value.grad.isfinite().all()


@pytest.mark.parametrize("how", ["autocast", "bfloat16 weights"])
def test_sit_in_bfloat16_has_a_float32_loss(how, golden_model, golden_batch):
    x, t, y = golden_batch
    numbers, sync = (2, 4), LayerSync(golden_model.blocks, [(2, 4)])
    if how == "bfloat16 weights":
        golden_model, x = golden_model.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        pair = block_outputs(golden_model, (x, t, y), numbers)
        forward(sync, golden_model, (x, t, y))
        loss = sync.loss()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, -cosine(*pair).mean().float(), rtol=0, atol=1e-6)
    loss.backward()
    assert golden_model.x_embedder.proj.weight.grad.isfinite().all()


def test_two_passes_act_like_one_larger_batch(golden_model, golden_batch):
    sync = LayerSync(golden_model.blocks, [(2, 4), (1, 5)])
    forward(sync, golden_model, golden_batch)
    whole = sync.loss(reduction="none")
    with sync.capture():
        golden_model(*(part[:1] for part in golden_batch))
        golden_model(*(part[1:] for part in golden_batch))
    parts = sync.loss(reduction="none")
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_each_capture_forgets_the_one_before(golden_model, golden_batch):
    sync = LayerSync(golden_model.blocks, [(2, 4)])
    x, t, y = golden_batch
    forward(sync, golden_model, (x, t, y))
    forward(sync, golden_model, (x[:1], t[:1], y[:1]))
    assert sync.loss(reduction="none").shape == (1,)


def test_loss_once_after_each_capture_and_never_without(golden_model, golden_batch):
    sync = LayerSync(golden_model.blocks, [(2, 4)])
    golden_model(*golden_batch)
    with pytest.raises(RuntimeError, match=r"\[2, 4\].*capture"):
        sync.loss()
    forward(sync, golden_model, golden_batch)
    sync.loss()
    with pytest.raises(RuntimeError, match=r"\[2, 4\].*capture"):
        sync.loss()


def test_the_block_that_did_not_run_is_named():
    blocks = [Emit(tokens(1, 2, 4)) for _ in range(3)]
    sync = LayerSync(blocks, [(1, 3)])
    with sync.capture():
        blocks[0]()
    with pytest.raises(RuntimeError, match=r"\[3\]"):
        sync.loss()


def test_blocks_that_ran_unequally_often_are_refused_with_their_counts():
    blocks = [Emit(tokens(1, 2, 4)) for _ in range(2)]
    sync = LayerSync(blocks, [(1, 2)])
    with sync.capture():
        _ = blocks[0](), blocks[1](), blocks[1]()
    with pytest.raises(RuntimeError, match="1: 1, 2: 2"):
        sync.loss()


def test_student_without_gradient_is_refused_in_training_and_measured_in_evaluation(
    golden_model, golden_batch
):
    sync = LayerSync(golden_model.blocks, [(2, 4)])
    with torch.no_grad():
        forward(sync, golden_model, golden_batch)
        in_evaluation = sync.loss().item()
        forward(sync, golden_model, golden_batch)
    with pytest.raises(RuntimeError, match="block 2 is a student"):
        sync.loss()
    forward(sync, golden_model, golden_batch)
    assert sync.loss().item() == pytest.approx(in_evaluation)


@pytest.mark.parametrize(
    ("student", "teacher", "named"),
    [
        ((2, 5, 8), (2, 5, 6), ("(1, 2)", "(2, 5, 8)", "(2, 5, 6)")),
        ((2, 5, 8), (2, 4, 8), ("(1, 2)", "(2, 5, 8)", "(2, 4, 8)")),
        ((2, 5, 8), (1, 5, 8), ("(1, 2)", "(2, 5, 8)", "(1, 5, 8)")),
        ((2, 8), (2, 8), ("block 1", "(2, 8)")),
        ((2, 5, 8), (2, 5, 2, 4), ("block 2", "(2, 5, 2, 4)")),
    ],
)
def test_shapes_that_do_not_match_are_refused_with_their_numbers(student, teacher, named):
    with pytest.raises(ValueError) as error:
        sync_of(tokens(*student), tokens(*teacher)).loss()
    assert all(text in str(error.value) for text in named)


def test_output_without_a_tensor_is_refused_by_its_type():
    with pytest.raises(ValueError, match=r"block 2.*str 'none'"):
        sync_of(tokens(1, 2, 4), "none").loss()


@pytest.mark.parametrize(
    ("pairs", "named"),
    [([], "at least one"), ([(2, 2)], "(2, 2)"), ([(4, 2)], "(4, 2)"), ([(2, 7)], "6 blocks")],
)
def test_pairs_are_checked_against_the_blocks(pairs, named, golden_model):
    with pytest.raises(ValueError) as error:
        LayerSync(golden_model.blocks, pairs)
    assert named in str(error.value)


def test_repr_says_depth_and_pairs(golden_model):
    text = repr(LayerSync(golden_model.blocks, [(2, 4)]))
    assert "6" in text and "(2, 4)" in text


def test_the_cosine_is_torchs_with_its_gradient_and_keeps_no_copies_of_tokens():
    """Compared in float64, for tokens of all lengths, also 0; only what comes in is kept."""
    torch.manual_seed(0)
    lengths = torch.tensor([1.0, 1e3, 1e-3, 1e-9, 0.0])[None, :, None]
    student, teacher = (torch.randn(2, 5, 7, dtype=torch.float64) * lengths for _ in range(2))
    ours, torchs = (student.clone().requires_grad_() for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        cosine = token_cosine(ours, teacher)
    expected = torch.nn.functional.cosine_similarity(torchs, teacher, dim=-1)
    torch.testing.assert_close(cosine, expected)
    weights = torch.randn(2, 5, dtype=torch.float64)
    (cosine * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad[:, :3], torchs.grad[:, :3])
    assert ours.grad.isfinite().all()
    given = {ours.data_ptr(), teacher.data_ptr()}
    assert {x.data_ptr() for x in kept if x.numel() == ours.numel()} <= given
