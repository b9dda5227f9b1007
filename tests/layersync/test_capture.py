"""Capturing leaves no trace: not on the model, not in memory, not after an exception."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from layersync import LayerSync
from layersync.capture import BlockRecorder

PAIR = (2, 4)


def sync_on(model):
    return LayerSync(model.blocks, [PAIR])


def captured_loss(model, batch, sync=None):
    sync = sync or sync_on(model)
    with sync.capture():
        model(*batch)
    return sync.loss()


def traces(model):
    """Return what capturing could leave on the blocks."""
    return [
        (number, name)
        for number, block in enumerate(model.blocks, start=1)
        for name, value in vars(block).items()
        if name == "forward" or ("hooks" in name and value)
    ]


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def watch(model):
    """Weak references to every block's output, as they come."""
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda m, a, o: outputs.append(weakref.ref(o)))
    return outputs


def alive(references):
    gc.collect()
    return sum(reference() is not None for reference in references)


@pytest.mark.golden_family("block")
def test_recorded_block_output_is_golden(key, check_golden, golden_model, golden_batch):
    number = int(key.removeprefix("model/block"))
    recorder = BlockRecorder({number: golden_model.blocks[number - 1]})
    with recorder.recording():
        golden_model(*golden_batch)
    (output,) = recorder.outputs[number]
    check_golden(key, output)


def test_output_is_the_same_bit_for_bit_with_and_without_capture(golden_model, golden_batch):
    plain = golden_model(*golden_batch)
    with sync_on(golden_model).capture():
        captured = golden_model(*golden_batch)
    assert captured.equal(plain)
    assert golden_model(*golden_batch).equal(plain)


def test_blocks_carry_something_inside_capture_and_nothing_outside(golden_model, golden_batch):
    sync = sync_on(golden_model)
    assert traces(golden_model) == []
    with sync.capture():
        assert {number for number, _ in traces(golden_model)} == set(PAIR)
        golden_model(*golden_batch)
    assert traces(golden_model) == []
    sync.loss()
    assert traces(golden_model) == []


def test_every_capture_installs_the_same_recorder(golden_model):
    """A new recorder would make torch.compile compile again."""
    sync, block = sync_on(golden_model), golden_model.blocks[PAIR[0] - 1]
    installed = []
    for _ in range(2):
        with sync.capture():
            installed.append(vars(block)["forward"])
    assert installed[0] is installed[1]


def test_state_dict_and_pickle_do_not_notice(golden_model, golden_batch):
    keys = list(golden_model.state_dict())
    sync = sync_on(golden_model)
    with sync.capture():
        golden_model(*golden_batch)
        assert list(golden_model.state_dict()) == keys
    sync.loss()
    assert list(golden_model.state_dict()) == keys
    copied = pickle.loads(pickle.dumps(golden_model))
    assert copied(*golden_batch).equal(golden_model(*golden_batch))


def test_an_exception_inside_capture_passes_through_and_leaves_nothing(golden_model, golden_batch):
    sync, outputs = sync_on(golden_model), watch(golden_model)
    try:
        with sync.capture():
            golden_model(*golden_batch)
            assert alive(outputs) > 0
            raise KeyError("mine")
    except KeyError as error:
        assert error.args == ("mine",)
    assert not any(name == "forward" for _, name in traces(golden_model))
    assert alive(outputs) == 0
    with pytest.raises(RuntimeError, match=r"\[2, 4\]"):
        sync.loss()
    assert captured_loss(golden_model, golden_batch, sync).isfinite()


def test_an_exception_in_a_block_leaves_nothing(golden_model, golden_batch):
    def fail(module, arguments):
        raise ArithmeticError

    sync = sync_on(golden_model)
    hook = golden_model.blocks[3].register_forward_pre_hook(fail)
    with pytest.raises(ArithmeticError), sync.capture():
        golden_model(*golden_batch)
    hook.remove()
    assert traces(golden_model) == []
    assert captured_loss(golden_model, golden_batch, sync).isfinite()


def test_outputs_are_held_until_loss_and_no_longer(golden_model, golden_batch):
    sync, outputs = sync_on(golden_model), watch(golden_model)
    with torch.no_grad():
        with sync.capture():
            golden_model(*golden_batch)
        assert alive(outputs) == 2
        sync.loss()
    assert alive(outputs) == 0


def test_outputs_die_with_the_graph_of_the_loss(golden_model, golden_batch):
    sync, outputs = sync_on(golden_model), watch(golden_model)
    with sync.capture():
        golden_model(*golden_batch)
    loss = sync.loss()
    assert alive(outputs) > 0
    del loss
    assert alive(outputs) == 0
    assert len(sync.similarity()) == 1


def test_a_new_capture_lets_go_of_the_last(golden_model, golden_batch):
    sync, outputs = sync_on(golden_model), watch(golden_model)
    with torch.no_grad():
        with sync.capture():
            golden_model(*golden_batch)
        with sync.capture():
            assert alive(outputs) == 0


def test_capture_inside_its_own_capture_is_refused(golden_model, golden_batch):
    sync = sync_on(golden_model)
    with sync.capture():
        with pytest.raises(RuntimeError, match="already active"), sync.capture():
            pass
        golden_model(*golden_batch)
    assert traces(golden_model) == []
    expected = captured_loss(golden_model, golden_batch)
    assert sync.loss().equal(expected)


def test_two_regularisers_may_capture_the_same_blocks(golden_model, golden_batch):
    outer, inner = sync_on(golden_model), LayerSync(golden_model.blocks, [(2, 5)])
    with outer.capture(), inner.capture():
        golden_model(*golden_batch)
    assert traces(golden_model) == []
    assert outer.loss().equal(captured_loss(golden_model, golden_batch))
    alone = LayerSync(golden_model.blocks, [(2, 5)])
    assert inner.loss().equal(captured_loss(golden_model, golden_batch, alone))


def test_a_forward_that_was_there_before_is_used_and_put_back(golden_model, golden_batch):
    """accelerate replaces `forward` on the instance, and so may anybody."""
    block = golden_model.blocks[PAIR[0] - 1]
    original, calls = block.forward, []

    def doubled(*arguments):
        calls.append(len(arguments))
        return 2 * original(*arguments)

    block.forward = doubled
    expected = golden_model(*golden_batch)
    sync = sync_on(golden_model)
    for _ in range(2):
        with sync.capture():
            assert golden_model(*golden_batch).equal(expected)
        assert vars(block)["forward"] is doubled
    assert len(calls) == 3
    del block.forward
    sync.loss()
    with sync.capture():
        assert not golden_model(*golden_batch).equal(expected)
    assert traces(golden_model) == []


def test_a_copy_of_the_model_lives_its_own_life(golden_model, golden_batch):
    sync = sync_on(golden_model)
    captured_loss(golden_model, golden_batch, sync)
    ema = copy.deepcopy(golden_model)
    with torch.no_grad():
        for parameter in golden_model.parameters():
            parameter.mul_(0.5)
    assert not ema(*golden_batch).equal(golden_model(*golden_batch))

    captured_loss(golden_model, golden_batch, sync).backward()
    assert gradients(golden_model) and not gradients(ema)
    with sync.capture():
        ema(*golden_batch)
    with pytest.raises(RuntimeError, match=r"\[2, 4\]"):
        sync.loss()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_made_inside_capture_runs_its_own_blocks_and_is_not_recorded(
    copied, golden_model, golden_batch
):
    sync, expected = sync_on(golden_model), golden_model(*golden_batch)
    with sync.capture():
        twin = copied(golden_model)
        golden_model(*golden_batch)
        assert twin(*golden_batch).equal(expected)
    assert sync.loss(reduction="none").shape == (len(expected),)  # one pass, not two
    with torch.no_grad():
        for parameter in golden_model.parameters():
            parameter.zero_()
    assert twin(*golden_batch).equal(expected)
    assert copied(twin)(*golden_batch).equal(expected)


def test_the_weights_of_a_model_are_saved_and_loaded_inside_capture(golden_model, golden_batch):
    expected = golden_model(*golden_batch)
    with sync_on(golden_model).capture():
        state = {key: value.clone() for key, value in golden_model.state_dict().items()}
        for parameter in golden_model.parameters():
            parameter.data.zero_()
        golden_model.load_state_dict(state, strict=True)
        assert golden_model(*golden_batch).equal(expected)


class Checkpointed(torch.nn.Module):
    """A block within activation checkpointing."""

    def __init__(self, block, use_reentrant):
        super().__init__()
        self.block, self.use_reentrant = block, use_reentrant

    def forward(self, *arguments):
        return checkpoint(self.block, *arguments, use_reentrant=self.use_reentrant)


def checkpointed(model, use_reentrant):
    """(a copy of the model with every block checkpointed, the blocks themselves)."""
    model = copy.deepcopy(model)
    blocks = list(model.blocks)
    model.blocks = torch.nn.ModuleList(Checkpointed(block, use_reentrant) for block in blocks)
    return model, blocks


@pytest.mark.parametrize(
    ("recorded", "use_reentrant"),
    [("inside", False), ("outside", False), ("inside", True), ("outside", True)],
)
def test_checkpointing_changes_neither_loss_nor_gradients(
    recorded, use_reentrant, golden_model, golden_batch
):
    def step(model, blocks):
        sync = LayerSync(blocks, [PAIR])
        for _ in range(2):  # the second step meets what the first left behind
            model.zero_grad()
            with sync.capture():
                out = model(*golden_batch)
            loss = out.square().mean() + sync.loss()
            loss.backward()
        with pytest.raises(RuntimeError, match="did not run"):  # nor was the recomputation recorded
            sync.loss()
        return loss.detach(), [p.grad for p in model.parameters() if p.requires_grad]

    expected_loss, expected = step(golden_model, golden_model.blocks)
    model, blocks = checkpointed(golden_model, use_reentrant)
    loss, actual = step(model, blocks if recorded == "inside" else model.blocks)
    torch.testing.assert_close(loss, expected_loss)
    for one, two in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_student_in_the_middle_of_reentrant_checkpointing_is_refused_with_the_remedy():
    """There the output carries no gradient, unless the block is the last one checkpointed."""
    blocks = [torch.nn.Linear(4, 4) for _ in range(4)]
    sync, x = LayerSync(blocks, [PAIR]), torch.ones(1, 3, 4, requires_grad=True)
    whole = torch.nn.Sequential(*blocks)
    with sync.capture():
        checkpoint(whole, x, use_reentrant=True)
    with pytest.raises(RuntimeError, match=r"block 2 .*use_reentrant=False"):
        sync.loss()
    with sync.capture():
        checkpoint(whole, x, use_reentrant=False)
    sync.loss().backward()
    assert blocks[0].weight.grad.norm() > 0


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_backward_inside_capture_keeps_no_recomputed_output(
    use_reentrant, early_stop, golden_model, golden_batch
):
    model, blocks = checkpointed(golden_model, use_reentrant)
    sync = LayerSync(blocks, [PAIR])
    outputs = []
    for block in blocks:
        block.register_forward_hook(lambda m, a, o: outputs.append(weakref.ref(o)))
    with sync.capture(), set_checkpoint_early_stop(early_stop):
        out = model(*golden_batch)
        (out.square().mean() + sync.loss()).backward()
        del out
        assert alive(outputs) == 0
        with pytest.raises(RuntimeError, match="did not run"):
            sync.loss()


def test_a_loss_that_is_refused_keeps_nothing_either(golden_model, golden_batch):
    sync = LayerSync(golden_model.blocks, [PAIR], select="tokens")
    outputs = watch(golden_model)
    with sync.capture():
        golden_model(*golden_batch)
    with pytest.raises(ValueError, match="no entry select='tokens'"):
        sync.loss()
    assert alive(outputs) == 0


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_copy_of_a_regulariser_that_captures_works_on_its_own_model(
    golden_model, golden_batch, before
):
    """As an EMA makes of a model that holds its regulariser."""
    golden_model.sync = sync_on(golden_model)
    with golden_model.sync.capture():
        if before:
            copied = copy.deepcopy(golden_model)
        golden_model(*golden_batch)
        if not before:
            copied = copy.deepcopy(golden_model)
    expected = golden_model.sync.loss().item()
    with pytest.raises(RuntimeError, match="did not run"):
        copied.sync.loss()
    assert captured_loss(copied, golden_batch, copied.sync).item() == expected
    loaded = pickle.loads(pickle.dumps(copied))
    assert captured_loss(loaded, golden_batch, loaded.sync).item() == expected


def test_a_forward_that_is_replaced_inside_capture_is_noticed(golden_model, golden_batch):
    """The replacement was lost, and of captures left in another order one recorded for ever."""
    first, second = sync_on(golden_model), sync_on(golden_model)
    one, other = first.capture(), second.capture()
    one.__enter__()
    other.__enter__()
    with pytest.raises(RuntimeError, match="forward was replaced inside capture"):
        one.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match="did not run"):
        first.loss()
