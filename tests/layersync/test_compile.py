"""torch.compile: one graph with and one without recording, and the losses and gradients of eager.

The backend is aot_eager, which traces forward and backward but needs no C++ compiler.
"""

import copy

import pytest
import torch
from torch import nn

from layersync import CREPA, LayerSync, capture

PAIRS = [(1, 3), (2, 4)]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        return x + self.linear(self.norm(x)).tanh()


class Stack(nn.Module):
    def __init__(self, depth=5):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture
def counter():
    from torch._dynamo.testing import CompileCounterWithBackend  # and half a second of others

    torch._dynamo.reset()
    # past the limit dynamo would run eagerly, and the count of graphs would stand still
    names = "fail_on_recompile_limit_hit", "fail_on_cache_limit_hit"  # now, and in torch 2.6
    name = next(name for name in names if hasattr(torch._dynamo.config, name))
    with torch._dynamo.config.patch(name, True):
        yield CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()


@pytest.fixture
def stack():
    torch.manual_seed(0)
    return Stack()


def batch(seed):
    return torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(seed))


def step(run, model, sync, x, captured):
    """(loss, gradients) of one training step, with the regulariser or without."""
    model.zero_grad()
    if captured:
        with sync.capture():
            out = run(x)
        loss = out.square().mean() + 0.5 * sync.loss()
    else:
        loss = run(x).square().mean()
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


def compile_whole(model, backend):
    return torch.compile(model, backend=backend)


def compile_in_place(model, backend):
    model.compile(backend=backend)
    return model


def compile_blocks(model, backend):
    for block in model.blocks:
        block.compile(backend=backend)
    return model


@pytest.mark.parametrize("captured_first", [True, False])
@pytest.mark.parametrize("way", [compile_whole, compile_blocks])
def test_alternating_steps_compile_each_kind_once_and_match_eager(
    way, captured_first, counter, stack
):
    eager = copy.deepcopy(stack)
    run, eager_sync = way(stack, counter), LayerSync(eager.blocks, PAIRS)
    sync, frames = LayerSync(stack.blocks, PAIRS), []
    for number in range(6):
        captured = (number % 2 == 0) == captured_first
        loss, gradients = step(run, stack, sync, batch(number), captured)
        expected_loss, expected = step(eager, eager, eager_sync, batch(number), captured)
        torch.testing.assert_close(loss, expected_loss)
        torch.testing.assert_close(gradients, expected)
        frames.append(counter.frame_count)
    assert frames[0] >= 1
    if way is compile_blocks:
        assert frames == [frames[0]] * 6  # recorded around the blocks' one graph
        return
    assert frames[1] > frames[0]  # else one of the two would not have been compiled at all
    assert frames[1:] == [frames[1]] * 5


@pytest.mark.parametrize("way", [compile_whole, compile_in_place, compile_blocks])
def test_capture_records_although_the_model_was_compiled_and_run_before(way, counter, stack):
    eager = copy.deepcopy(stack)
    run = way(stack, counter)
    with torch.no_grad():
        run(batch(0))
    sync, expected = LayerSync(stack.blocks, PAIRS), LayerSync(eager.blocks, PAIRS)
    with sync.capture():
        run(batch(1))
    with expected.capture():
        eager(batch(1))
    torch.testing.assert_close(sync.loss(), expected.loss())
    assert sync.similarity() == pytest.approx(expected.similarity(), abs=1e-6)
    assert not any("forward" in vars(block) for block in stack.blocks)


def test_a_compiled_sit_has_the_losses_and_gradients_of_eager(counter, golden_model, golden_batch):
    eager = copy.deepcopy(golden_model)
    results = []
    for model, run in (
        (eager, eager),
        (golden_model, torch.compile(golden_model, backend=counter)),
    ):
        sync = LayerSync(model.blocks, [(2, 4)])
        with sync.capture():
            out = run(*golden_batch)
        (out.square().mean() + sync.loss()).backward()
        results.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)
    assert counter.frame_count == 1


def test_blocks_compiled_one_by_one_share_a_graph_however_many_are_captured(counter):
    """From 1 to 12 of 13, more than dynamo's limit of recompilations is."""
    torch.manual_seed(0)
    stack = Stack(depth=13)
    run, frames = compile_blocks(stack, counter), []
    for teachers in range(2, 14):
        sync = LayerSync(stack.blocks, [(1, teacher) for teacher in range(2, teachers + 1)])
        step(run, stack, sync, batch(teachers), captured=True)
        frames.append(counter.frame_count)
    assert frames == [2] * 12  # the first block's input needs no gradient, all others' do


def test_a_copy_made_while_compiled_blocks_record_runs_its_own_blocks(counter, stack):
    run = compile_blocks(stack, counter)
    sync = LayerSync(stack.blocks, PAIRS)
    with sync.capture():
        twin = copy.deepcopy(stack)
        expected = run(batch(0))
    similarity = sync.loss()
    torch.testing.assert_close(twin(batch(0)), expected)
    assert not any(vars(block).get("_compiled_call_impl") for block in twin.blocks)
    assert all(vars(block)["_compiled_call_impl"] is not None for block in stack.blocks)
    assert -1 <= similarity <= 1


@pytest.mark.parametrize("way", [compile_whole, compile_blocks])
def test_capturing_for_two_regularisers_is_one_more_graph_at_most(way, counter, stack):
    eager = copy.deepcopy(stack)
    run, pairs, frames = way(stack, counter), [(1, 3), (2, 4)], []
    sync, crepa = LayerSync(stack.blocks, pairs), CREPA(stack.blocks, (1, 3), width=8, frames=2)
    expected_sync = LayerSync(eager.blocks, pairs)
    expected_crepa = CREPA(eager.blocks, (1, 3), width=8, frames=2)
    expected_crepa.load_state_dict(crepa.state_dict())
    for number in range(6):
        if number % 2:
            run(batch(number))
        else:
            with capture(sync, crepa):
                run(batch(number))
            with expected_sync.capture(), expected_crepa.capture():
                eager(batch(number))
            torch.testing.assert_close(sync.loss(), expected_sync.loss())
            torch.testing.assert_close(crepa.loss(), expected_crepa.loss())
        frames.append(counter.frame_count)
    assert frames[0] == 2 if way is compile_blocks else frames[1] > frames[0] >= 1
    assert frames[1:] == [frames[1]] * 5
