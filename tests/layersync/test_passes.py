"""Masks, weights, and several passes: against the formula written out."""

import pytest
import torch
from torch import nn

from layersync import LayerSync


class Stack(nn.Module):
    """Blocks of (N, T, 8), each of which runs twice in a pass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x).tanh()
            x = x + block(x).tanh()
        return x


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Emit(nn.Module):
    def forward(self, x):
        return x


def emitted(*calls, pairs=((1, 2),), **options):
    """A LayerSync over blocks that returned, in each call, these tensors."""
    blocks = [Emit() for _ in calls[0]]
    sync = LayerSync(blocks, pairs, **options)
    with sync.capture():
        for call in calls:
            _ = [block(value) for block, value in zip(blocks, call, strict=True)]
    return sync


def cosines(a, b):
    return (nn.functional.normalize(a, dim=-1) * nn.functional.normalize(b, dim=-1)).sum(-1)


def student(*shape, seed=0):
    return data(*shape, seed=seed).requires_grad_()


MASK = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()


def test_a_masked_loss_is_the_mean_over_the_tokens_that_count():
    a, b = student(3, 5, 8), data(3, 5, 8, seed=1)
    per_sample = emitted((a, b)).loss("none", mask=MASK)
    each = -cosines(a, b)
    expected = torch.stack([each[0, [0, 1, 3]].mean(), each[1, 2], torch.zeros(())])
    torch.testing.assert_close(per_sample, expected)
    torch.testing.assert_close(emitted((a, b)).loss(mask=MASK), expected.mean())
    whole = emitted((a, b)).loss(mask=torch.ones(3, 5, dtype=torch.bool))
    torch.testing.assert_close(whole, emitted((a, b)).loss())


def test_masked_tokens_have_no_gradient_even_if_they_are_not_finite():
    a, b = data(3, 5, 8), data(3, 5, 8, seed=1)
    plain = a.clone().requires_grad_()
    emitted((plain, b)).loss(mask=MASK).backward()
    a[~MASK], b[0, 2] = float("nan"), float("inf")
    a.requires_grad_()
    emitted((a, b)).loss(mask=MASK).backward()
    assert (a.grad[~MASK] == 0).all() and (a.grad[0, 0] != 0).any()
    torch.testing.assert_close(a.grad, plain.grad)


def test_a_mask_of_a_video_is_flattened_like_its_tokens():
    a, b, mask = student(2, 3, 4, 8), data(2, 3, 4, 8, seed=1), data(2, 3, 4) > 0
    loss = emitted((a, b)).loss("none", mask=mask)
    flat = [x.reshape(2, 12, *x.shape[3:]) for x in (a, b, mask)]
    torch.testing.assert_close(loss, emitted(tuple(flat[:2])).loss("none", mask=flat[2]))


def test_passes_of_different_lengths_are_one_batch_with_one_mask_each():
    first, second = (student(2, 5, 8), data(2, 5, 8, seed=1)), (student(1, 3, 8), data(1, 3, 8))
    masks = [data(2, 5) > -1, torch.tensor([[True, False, True]])]
    both = emitted(first, second)
    expected = torch.cat([emitted(first).loss("none"), emitted(second).loss("none")])
    torch.testing.assert_close(both.loss("none"), expected)
    parts = [emitted(x).loss("none", mask=m) for x, m in zip((first, second), masks, strict=True)]
    masked = emitted(first, second).loss("none", mask=masks)
    torch.testing.assert_close(masked, torch.cat(parts))
    one = emitted(first, first).loss("none", mask=torch.cat([masks[0], ~masks[0]]))
    torch.testing.assert_close(one[:2], parts[0])


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(2, 5), TypeError, "bool tensor.*torch.float32"),
        ([True], TypeError, "bool tensor.*got bool"),
        (torch.ones(2, 4).bool(), ValueError, r"\(2, 4\).*\(2, 5\)"),
        (torch.ones(1, 5).bool(), ValueError, r"\(1, 5\).*\(2, 5\)"),
        (torch.ones(5).bool(), ValueError, r"\(5,\).*\(2, 5\)"),
        ([torch.ones(2, 5).bool()] * 2, ValueError, r"\(2, 5\), \(2, 5\)\].*\[\(2, 5\)\]"),
    ],
)
def test_masks_that_do_not_fit_are_refused_and_never_broadcast(mask, error, message):
    with pytest.raises(error, match=f"mask: .*{message}"):
        emitted((student(2, 5, 8), data(2, 5, 8))).loss(mask=mask)


def test_weights_make_the_weighted_sum_of_the_pairs():
    values = tuple(student(2, 5, 8, seed=seed) for seed in range(3))
    first, second = (emitted(values, pairs=[p]).loss("none") for p in [(1, 2), (2, 3)])
    sync = emitted(values, pairs=[(1, 2), (2, 3)], weights=[0.2, 3])
    torch.testing.assert_close(sync.loss("none"), 0.2 * first + 3 * second)
    similarity = {(1, 2): -first.mean().item(), (2, 3): -second.mean().item()}
    assert sync.similarity() == pytest.approx(similarity)  # without weights
    with torch.autocast("cpu", torch.bfloat16):
        half = emitted(values, pairs=[(1, 2), (2, 3)], weights=[0.2, 3]).loss("none")
    torch.testing.assert_close(half, 0.2 * first + 3 * second)  # dtypes too
    plain = emitted(values, pairs=[(1, 2), (2, 3)]).loss("none")
    torch.testing.assert_close(plain, (first + second) / 2)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], r"weights \[1\]: 1 for 2 pairs"),
        ([1, 0], r"weight 0 of pair \(1, 3\).*above 0"),
        ([1, -0.2], r"-0\.2 of pair"),
        ([float("nan"), 1], r"nan of pair \(1, 2\)"),
        ([1, float("inf")], "inf"),
        ([1, "2"], "'2'"),
        ([1, True], "True"),
        (0.2, r"weights: 0\.2 is not a list"),
        ("12", "weights: '12' is not a list"),
    ],
)
def test_weights_that_are_no_positive_number_for_each_pair_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        LayerSync([Emit() for _ in range(3)], [(1, 2), (1, 3)], weights=weights)


def test_accumulated_parts_add_up_to_the_gradient_of_the_whole_batch():
    whole, parts, x = Stack(), Stack(), data(6, 5, 8)
    for model, batches in ((whole, [x]), (parts, x.chunk(3))):
        sync = LayerSync(model.blocks, [(1, 3)])
        for batch in batches:
            with sync.capture():
                out = model(batch)
            ((out.square().mean() + sync.loss()) / len(batches)).backward()
    for one, two in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_blocks_that_are_called_twice_in_a_pass_are_compared_call_by_call():
    model, x = Stack(), data(2, 5, 8)
    sync = LayerSync(model.blocks, [(1, 3)])
    outputs = {}
    for number in (1, 3):
        model.blocks[number - 1].register_forward_hook(
            lambda m, a, o, number=number: outputs.setdefault(number, []).append(o)
        )
    with sync.capture():
        model(x)
    losses = [-cosines(a, b).mean(1) for a, b in zip(outputs[1], outputs[3], strict=True)]
    torch.testing.assert_close(sync.loss("none"), torch.cat(losses))


def shared_stack(times):
    """One block that runs again and again, in a list as often as that."""
    torch.manual_seed(0)
    block = nn.Linear(8, 8)
    return block, [block] * times


def test_a_module_in_several_places_is_compared_with_its_own_later_turns():
    block, blocks = shared_stack(4)
    sync, batches, expected = LayerSync(blocks, [(1, 3), (2, 4)]), data(2, 3, 5, 8), []
    with sync.capture():
        for x in batches:
            turns = [x := block(x) for _ in range(4)]
            expected.append([cosines(turns[0], turns[2]), cosines(turns[1], turns[3])])
    loss = -torch.cat([torch.stack(pair).mean(0).mean(1) for pair in expected])
    torch.testing.assert_close(sync.loss("none"), loss)


def test_a_shared_module_that_ran_another_number_of_times_is_refused():
    block, blocks = shared_stack(4)
    sync = LayerSync(blocks, [(1, 3)])
    with sync.capture():
        block(data(2, 5, 8))
    with pytest.raises(RuntimeError, match=r"\[1, 2, 3, 4\] are one module, Linear.*ran 1 times"):
        sync.loss()


def test_losses_may_be_taken_between_passes_of_one_capture():
    model, x = Stack(), data(4, 5, 8)
    sync, losses = LayerSync(model.blocks, [(1, 3)]), []
    with sync.capture():
        for part in x.chunk(2):
            model(part)
            losses.append(sync.loss("none"))
    with sync.capture():
        model(x)
    torch.testing.assert_close(torch.stack(losses).mean(), sync.loss())


class Filling(nn.Module):
    """A block that gets a container and returns it, with new tokens in it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, state):
        if isinstance(state, list):
            state[0] = state[0] + self.linear(state[0]).tanh()
        else:
            tokens = state["hidden_states"]
            state["hidden_states"] = tokens + self.linear(tokens).tanh()
        return state


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["dict", "list"])
def test_a_container_that_goes_from_block_to_block_holds_each_blocks_own_tokens(kind, compiled):
    """The last block's were compared with themselves: -1 for ever."""
    torch.manual_seed(0)
    blocks, x = nn.Sequential(*(Filling() for _ in range(3))), torch.randn(2, 4, 8)
    sync = LayerSync(blocks, [(1, 3)])
    run = torch.compile(blocks, backend="eager") if compiled else blocks
    with sync.capture():
        run({"hidden_states": x} if kind == "dict" else [x])
    outputs = [x]
    for block in blocks:
        outputs.append(outputs[-1] + block.linear(outputs[-1]).tanh())
    expected = -nn.functional.cosine_similarity(outputs[1], outputs[3], dim=-1).mean()
    assert sync.loss().item() == pytest.approx(expected.item(), abs=1e-6)


def test_outputs_changed_in_place_are_refused_and_never_compared():
    class Adding(nn.Linear):
        def forward(self, x):
            x += super().forward(x)
            return x

    blocks = nn.Sequential(*(Adding(8, 8) for _ in range(3)))
    sync = LayerSync(blocks, [(1, 3)])
    with sync.capture():
        blocks(torch.randn(2, 4, 8))
    with pytest.raises(RuntimeError, match=r"outputs of blocks \[1\] were changed in place"):
        sync.loss()
    with pytest.raises(RuntimeError, match="did not run"):
        sync.loss()  # and nothing is kept
    with torch.inference_mode(), sync.capture():
        blocks(torch.randn(2, 4, 8))  # where nobody counts changes
    with torch.inference_mode():
        assert sync.loss() == -1


def test_another_stream_may_be_changed_in_place():
    class Pair(nn.Linear):
        def forward(self, x):
            return x + super().forward(x).tanh(), torch.zeros(2, 4, 8)

    class Model(nn.Sequential):
        def forward(self, x):
            for block in self:
                x, other = block(x)
                other += 1
            return x

    model, x = Model(*(Pair(8, 8) for _ in range(3))), torch.randn(2, 4, 8)
    for select, fine in ((0, True), (lambda output: output[0][:, 1:], True), (1, False)):
        sync = LayerSync(model, [(1, 3)], select=select)
        with sync.capture():
            model(x)
        if fine:
            assert sync.loss() < 0
        else:
            with torch.no_grad(), pytest.raises(RuntimeError, match="changed in place"):
                sync.loss()


class State:
    """Stand for an object that a library hands from block to block."""

    def __init__(self, tokens):
        self.tokens = tokens


def test_an_object_that_is_filled_anew_holds_each_blocks_own_tokens():
    class Block(nn.Linear):
        def forward(self, state):
            state.tokens = state.tokens + super().forward(state.tokens).tanh()
            return state

    blocks, x = nn.Sequential(*(Block(8, 8) for _ in range(3))), torch.randn(2, 4, 8)
    sync = LayerSync(blocks, [(1, 3)], select=lambda state: state.tokens)
    with sync.capture():
        blocks(State(x))
    student = blocks[0](State(x)).tokens
    teacher = blocks[2](blocks[1](State(student))).tokens
    expected = -nn.functional.cosine_similarity(student, teacher, dim=-1).mean()
    assert sync.loss().item() == pytest.approx(expected.item(), abs=1e-6)
