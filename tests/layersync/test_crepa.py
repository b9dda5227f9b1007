"""CREPA: its formula written out, its life cycle, its projector, what is refused."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from emitting import Emit
from torch import nn

from layersync import CREPA, LayerSync, Schedule, capture


def states(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Stack(nn.Module):
    """Four residual blocks of (B, T, N, 8) or (B, T N, 8)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x).tanh()
        return x


def crepa_of(model, pair=(1, 3), seed=3, **options):
    torch.manual_seed(seed)
    return CREPA(model.blocks, pair, **{"width": 8, "frames": 4} | options)


def score(crepa, student, teacher, distance=1, tau=1.0):
    """The mean over videos and frames of S, from the matrix of all c[i, j]; (B, T, N, 8) each."""
    norm, linear = crepa.projector
    projected = linear(norm(student))
    unit = F.normalize(projected, dim=-1), F.normalize(teacher.detach(), dim=-1)
    c = torch.einsum("bind,bjnd->bij", *unit) / student.shape[2]
    frames = range(student.shape[1])
    weight = {0: 1.0, distance: torch.exp(torch.tensor(-distance / tau)).item()}
    kernel = torch.tensor([[weight.get(abs(i - j), 0.0) for j in frames] for i in frames])
    return (c * kernel).sum(2).mean()


def outputs(model, x, numbers):
    hidden = {}
    hooks = [
        model.blocks[n - 1].register_forward_hook(lambda m, a, o, n=n: hidden.update({n: o}))
        for n in numbers
    ]
    model(x)
    _ = [hook.remove() for hook in hooks]
    return [hidden[n].unflatten(1, (4, -1)) if hidden[n].dim() == 3 else hidden[n] for n in numbers]


@pytest.mark.parametrize("shape", [(2, 12, 8), (2, 4, 3, 8), (2, 4, 1, 3, 8)])
def test_flattened_frames_are_those_of_their_own_axis(shape):
    model, x = Stack(), states(2, 12, 8)
    crepa = crepa_of(model, schedule=Schedule(weight=0.7))
    with crepa.capture():
        model(x.view(shape))
    loss = crepa.loss()
    expected = -0.7 * score(crepa, *outputs(model, x, (1, 3)))
    torch.testing.assert_close(loss, expected)


def test_maps_have_their_channels_first():
    model, x = Stack(), states(2, 12, 8)
    blocks = [Emit(o.movedim(-1, 1).unsqueeze(-1)) for o in outputs(model, x, (1, 3))]
    torch.manual_seed(3)
    crepa = CREPA(blocks, (1, 2), width=8, channels_first=True)  # (B, D, T, N, 1)
    with crepa.capture():
        _ = [block() for block in blocks]
    expected = -score(crepa, *outputs(model, x, (1, 3)))
    torch.testing.assert_close(crepa.loss(), expected)


def test_the_gradient_ends_at_the_student_and_reaches_the_projector():
    model, x = Stack(), states(2, 12, 8)
    crepa = crepa_of(model, (2, 4))
    with crepa.capture():
        model(x)
    crepa.loss().backward()
    norms = [
        block.weight.grad is not None and block.weight.grad.norm() > 0 for block in model.blocks
    ]
    assert norms == [True, True, False, False]
    assert all(parameter.grad.norm() > 0 for parameter in crepa.parameters())


def test_a_block_may_be_its_own_teacher():
    """The projector learns to undo itself: then c[i, i] goes up, the block's weights still."""
    model, x = Stack(), states(2, 12, 8)
    crepa = crepa_of(model, (2, 2), adjacent_distance=0)
    optimizer, similarities = torch.optim.Adam(crepa.parameters(), lr=0.05), []
    for _ in range(30):
        with crepa.capture():
            model(x)
        loss = crepa.loss()
        similarities.append(crepa.similarity()[(2, 2)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert similarities[-1] > similarities[0] + 0.3


def test_reduction_none_is_per_video_and_averages_to_the_scalar():
    model, x = Stack(), states(3, 12, 8)
    crepa = crepa_of(model)
    losses = []
    for part in (x, x[:1], x[1:2], x[2:]):
        with crepa.capture():
            model(part)
        losses.append(crepa.loss("none"))
    torch.testing.assert_close(losses[0], torch.cat(losses[1:]))
    with crepa.capture():
        model(x)
    torch.testing.assert_close(crepa.loss(), losses[0].mean())
    with pytest.raises(ValueError, match=r"reduction.*'sum'"):
        crepa.loss("sum")


def test_several_passes_are_one_larger_batch_and_frames_may_differ():
    model, x = Stack(), states(4, 12, 8)
    crepa = crepa_of(model)
    with crepa.capture():
        model(x)
    whole, logs = crepa.loss("none"), crepa.logs()
    with crepa.capture():
        _ = [model(part) for part in x.chunk(2)]
    torch.testing.assert_close(crepa.loss("none"), whole)
    assert crepa.logs() == pytest.approx(logs)
    with crepa.capture():
        model(x)
    other = crepa.loss("none", frames=3)
    expected = crepa_of(model, frames=3)
    with expected.capture():
        model(x)
    torch.testing.assert_close(other, expected.loss("none"))
    assert not torch.allclose(other, whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_projected_and_compared_in_float32(dtype):
    student, teacher = (states(2, 4, 3, 8, seed=seed).to(dtype) for seed in (0, 1))
    blocks = [Emit(student.requires_grad_()), Emit(teacher)]
    crepa = CREPA(blocks, (1, 2), width=8)
    with crepa.capture():
        _ = [block() for block in blocks]
    with torch.autocast("cpu", torch.bfloat16):
        loss = crepa.loss()
    assert loss.dtype == torch.float32
    expected = -score(crepa, student.float(), teacher.float())
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in crepa.parameters())


def test_capture_for_both_is_as_each_alone_and_shadows_each_block_once():
    model, x = Stack(), states(2, 12, 8)
    sync, crepa = LayerSync(model.blocks, [(1, 3), (2, 4)]), crepa_of(model)
    calls = []
    for block in model.blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    plain = model(x)
    with capture(sync, crepa, None):
        shadows = [vars(block).get("forward") for block in model.blocks]
        assert model(x).equal(plain)
    assert not any("forward" in vars(block) for block in model.blocks)
    assert len(calls) == 8  # twice four: nothing ran again
    assert sync._hidden.recorder.outputs[1][0] is crepa._hidden.recorder.outputs[1][0]
    assert not crepa._hidden.recorder._forwards  # it has no recording forward of its own
    both = sync.loss(), crepa.loss()
    with sync.capture():
        model(x)
    with crepa.capture():
        model(x)
    assert sync.loss().equal(both[0]) and crepa.loss().equal(both[1])
    with capture(sync, crepa):
        assert [vars(block).get("forward") for block in model.blocks] == shadows
        with pytest.raises(RuntimeError, match="already active"), crepa.capture():
            pass
    with capture(None):
        model(x)
    with pytest.raises(TypeError, match="expected LayerSync or CREPA, got 'sync'"), capture("sync"):
        pass


def test_an_exception_inside_a_shared_capture_leaves_nothing_in_either():
    model, x = Stack(), states(2, 12, 8)
    sync, crepa = LayerSync(model.blocks, [(1, 3)]), crepa_of(model)
    with pytest.raises(KeyError), capture(sync, crepa):
        model(x)
        raise KeyError
    assert not any("forward" in vars(block) for block in model.blocks)
    for regularizer in (sync, crepa):
        with pytest.raises(RuntimeError, match=r"\[1, 3\] did not run"):
            regularizer.loss()


def test_the_recorder_module_is_still_importable_beside_the_function():
    from layersync.capture import BlockRecorder

    assert callable(capture) and BlockRecorder({}).outputs == {}


def test_weights_are_saved_and_loaded_and_the_width_found_at_the_first_loss():
    model, x = Stack(), states(2, 12, 8)
    known, late = crepa_of(model), crepa_of(model, width=None)
    with pytest.raises(RuntimeError, match=r"no parameters yet.*width=D"):
        late.parameters()
    late.load_state_dict(known.state_dict())
    assert [p.shape for p in late.parameters()] == [p.shape for p in known.parameters()]
    with capture(known, late):
        model(x)
    assert known.loss().equal(late.loss())

    torch.manual_seed(9)
    late = CREPA(model.blocks, (1, 3), frames=4)
    assert late.state_dict() == {}
    with late.capture():
        model(x)
    late.loss().backward()
    assert [tuple(p.shape) for p in late.parameters()] == [(8,), (8,), (8, 8), (8,)]
    assert all(p.dtype == torch.float32 for p in late.parameters())


def test_a_training_loop_that_is_resumed_is_the_same():
    def training(steps, crepa, model):
        optimizer = torch.optim.SGD([*model.parameters(), *crepa.parameters()], lr=0.5)
        for step in steps:
            with crepa.capture():
                model(states(2, 12, 8, seed=step))
            optimizer.zero_grad()
            crepa.loss(step=step).backward()
            optimizer.step()
        return crepa.logs()

    schedule = Schedule(0.5, similarity_threshold=0.4, convention="simpletuner")
    whole = training(range(6), crepa_of(model := Stack(), schedule=schedule), model)
    first = crepa_of(model := Stack(), schedule=schedule)
    training(range(3), first, model)
    second = crepa_of(model, seed=77, schedule=schedule)
    second.load_state_dict(first.state_dict())
    assert training(range(3, 6), second, model) == whole
    fresh = crepa_of(model, schedule=schedule)
    with pytest.raises(ValueError, match="'similarity_stop' is missing"):
        fresh.load_state_dict(fresh.projector.state())
    with pytest.raises(ValueError, match=r"state of the projector holds.*1\.bias.*needs"):
        fresh.load_state_dict(crepa_of(model, width=6).state_dict())


def test_accelerate_saves_and_loads_both_regularisers(tmp_path):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    def accelerated(seed):
        model = Stack()
        crepa = crepa_of(model, seed=seed, schedule=Schedule(similarity_threshold=0.5))
        sync = LayerSync(model.blocks, [(1, 3)], schedule=Schedule(similarity_threshold=0.5))
        accelerator = Accelerator(cpu=True)
        accelerator.register_for_checkpointing(sync, crepa)
        return accelerator, model, sync, crepa

    accelerator, model, *saved = accelerated(seed=1)
    with capture(*saved):
        model(states(2, 12, 8))
    for regularizer in saved:
        regularizer.loss()
    accelerator.save_state(tmp_path)
    accelerator, _, *loaded = accelerated(seed=2)
    accelerator.load_state(tmp_path)
    for before, after in zip(saved, loaded, strict=True):
        torch.testing.assert_close(after.state_dict(), before.state_dict(), rtol=0, atol=0)
        assert after.state_dict()["similarity_stop"][1] > 0
    AcceleratorState._reset_state()  # it is one for the whole process


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        (dict(frames=None), states(2, 12, 8), r"block 1 \(Linear\).*cannot be told.*frames="),
        (dict(frames=5), states(2, 12, 8), r"12 tokens.*frames=5 does not divide"),
        (dict(frames=3), states(2, 4, 3, 8), r"returned 4 frames, \(2, 4, 3, 8\), not frames=3"),
        (dict(width=6), states(2, 12, 8), r"projector has 6, but the student's tokens have 8"),
    ],
)
def test_states_that_do_not_fit_are_refused(options, x, message):
    model = Stack()
    crepa = crepa_of(model, **options)
    with crepa.capture():
        model(x)
    with pytest.raises(ValueError, match=message):
        crepa.loss()


def test_tokens_of_two_widths_are_refused_with_both_shapes():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 6))
    crepa = CREPA(model, (1, 2), width=8, frames=3)
    with crepa.capture():
        model(states(2, 12, 8))
    shapes = r"\(2, 3, 4, 8\) and \(2, 3, 4, 6\)"
    with pytest.raises(ValueError, match=rf"pair \(1, 2\): .*same videos and width.*{shapes}"):
        crepa.loss()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(pair=(3, 1)), ValueError, r"\(3, 1\).*did you mean \(1, 3\)"),
        (dict(pair=(1, 5)), ValueError, r"CREPA could not find layer 5.*4 blocks.*1-4 Linear"),
        (dict(pair=(0, 3)), ValueError, "could not find layer 0"),
        (dict(pair=3), ValueError, "3 is not a"),
        (dict(pair=(1.0, 3)), ValueError, "integers"),
        (dict(frames=0), ValueError, "frames: 0"),
        (dict(mode="audio"), ValueError, "mode: 'audio'"),
        (dict(width=0), ValueError, "width: 0"),
        (dict(adjacent_distance=-1), ValueError, "adjacent_distance: -1"),
        (dict(adjacent_tau=0.0), ValueError, r"adjacent_tau: 0\.0"),
        (dict(spatial_align=1), TypeError, "spatial_align: expected True or False, got 1"),
        (dict(select=2.0), TypeError, "select"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        crepa_of(Stack(), **options)


def test_logs_before_a_loss_and_a_loss_before_a_pass_are_refused():
    model = Stack()
    crepa = crepa_of(model)
    with pytest.raises(RuntimeError, match=r"blocks \[1, 3\] did not run inside capture"):
        crepa.loss()
    for call in (crepa.logs, crepa.similarity):
        with pytest.raises(RuntimeError, match=r"call loss\(\)"):
            call()
    with torch.no_grad(), crepa.capture():
        model(states(2, 12, 8))
    with pytest.raises(RuntimeError, match="block 1 is a student"):
        crepa.loss()


def test_repr_says_which_modules_are_meant():
    assert "pair=(1, 3)" in repr(crepa_of(Stack())) and "3: Linear" in repr(crepa_of(Stack()))
    named = CREPA.from_names(Stack(), "blocks.*", (1, 3), width=8)
    assert "3: blocks.2, Linear" in repr(named)


def test_gradients_of_torch_func_are_those_of_backward():
    """Moving the projector to where it was ended Python there, by a segmentation fault."""
    from torch.func import functional_call, grad

    torch.manual_seed(0)
    blocks, x = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3))), torch.randn(2, 6, 8)
    crepa = CREPA(blocks, (1, 2), width=8, frames=3)

    def loss(parameters):
        with crepa.capture():
            functional_call(blocks, parameters, (x,))
        return crepa.loss()

    found = grad(loss)(dict(blocks.named_parameters()))
    loss({}).backward()
    assert found["0.weight"].allclose(blocks[0].weight.grad) and found["0.weight"].any()
    assert not found["2.weight"].any()


def test_a_copy_averages_gradients_over_processes_too(monkeypatch):
    crepa = CREPA(nn.Sequential(*(nn.Linear(8, 8) for _ in range(2))), (1, 2), width=8, frames=3)
    monkeypatch.setattr("layersync.projector.mean_over_processes", lambda g: torch.full_like(g, 7))
    for each in (crepa, copy.deepcopy(crepa), pickle.loads(pickle.dumps(crepa))):
        blocks = each.blocks.modules
        with each.capture():
            blocks[1](blocks[0](torch.ones(2, 6, 8)))
        each.loss().backward()
        assert all((parameter.grad == 7).all() for parameter in each.parameters())
