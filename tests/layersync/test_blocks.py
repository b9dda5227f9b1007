"""Which modules are the blocks: lists in a row, names by glob, and what is said when they fail."""

import pytest
import torch
from torch import nn

from layersync import LayerSync, find_blocks


class Double(nn.Linear):
    pass


class Single(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 4), nn.Tanh())


class Mixed(nn.Module):
    """Two double and three single blocks, and something else."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 4)
        self.double_blocks = nn.ModuleList(Double(4, 4) for _ in range(2))
        self.single_blocks = nn.ModuleList(Single() for _ in range(3))

    def forward(self, x):
        x = self.embed(x)
        for block in [*self.double_blocks, *self.single_blocks]:
            x = block(x)
        return x


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Mixed()


def in_order(model):
    return [*model.double_blocks, *model.single_blocks]


def test_lists_in_a_row_are_counted_on(model):
    for lists in (
        [model.double_blocks, model.single_blocks],
        [*model.double_blocks, *model.single_blocks],
        ([*model.double_blocks], model.single_blocks),
        iter([model.double_blocks, model.single_blocks]),
    ):
        assert list(LayerSync(lists, [(2, 3)]).blocks) == in_order(model)


def test_a_pair_across_two_lists_has_the_loss_of_their_outputs(model):
    outputs, x = {}, torch.randn(2, 5, 4)
    model.double_blocks[1].register_forward_hook(lambda m, a, o: outputs.update(student=o))
    model.single_blocks[1].register_forward_hook(lambda m, a, o: outputs.update(teacher=o))
    sync = LayerSync([model.double_blocks, model.single_blocks], [(2, 4)])
    with sync.capture():
        model(x)
    expected = -torch.cosine_similarity(outputs["student"], outputs["teacher"], dim=-1).mean()
    torch.testing.assert_close(sync.loss(), expected)


@pytest.mark.parametrize(
    "names",
    [
        ["double_blocks.*", "single_blocks.*"],
        ["double_blocks", "single_blocks"],
        ["*_blocks.*"],
        "*_blocks.?",
        ["double_blocks.0", "double_blocks.1", "single_blocks.[0-2]"],
    ],
)
def test_names_find_the_blocks_in_order(names, model):
    assert list(find_blocks(model, names)) == in_order(model)
    assert list(LayerSync.from_names(model, names, [(2, 3)]).blocks) == in_order(model)


def test_the_order_is_that_of_the_names_then_of_the_model_and_not_of_the_alphabet():
    model = nn.ModuleDict({"b": nn.ModuleList(nn.Identity() for _ in range(12)), "a": nn.Tanh()})
    blocks = find_blocks(model, ["a", "b.*"])
    assert list(blocks) == [model["a"], *model["b"]]
    assert blocks.names[:4] == ("a", "b.0", "b.1", "b.2") and blocks.names[-1] == "b.11"


def test_a_star_stays_within_one_part_of_a_name(model):
    assert list(find_blocks(model, "single_blocks.*.0")) == [b[0] for b in model.single_blocks]
    with pytest.raises(ValueError, match="matches no module"):
        find_blocks(model, "double_blocks.*.weight")


def test_names_of_wrapped_models_are_those_they_have_there(model):
    wrapped = nn.Sequential(model)
    assert list(find_blocks(wrapped, "0.*_blocks.*")) == in_order(model)
    with pytest.raises(ValueError, match=r"'double_blocks\.\*'.*Nearest names: 0\.double_blocks"):
        find_blocks(wrapped, "double_blocks.*")


def test_a_name_that_matches_nothing_is_answered_with_the_lists_and_the_nearest(model):
    with pytest.raises(ValueError) as error:
        LayerSync.from_names(model, ["doubel_blocks.*"], [(1, 2)])
    assert str(error.value) == (
        "names: 'doubel_blocks.*' matches no module. Mixed has the lists of modules: "
        "double_blocks.* (1-2 Double), single_blocks.* (1-3 Single). "
        "Nearest names: double_blocks.*, double_blocks.1, double_blocks.0. "
        "Name one of these"
    )


def test_a_model_without_lists_shows_its_children():
    with pytest.raises(ValueError, match=r"Bilinear\. Name one"):
        find_blocks(nn.Bilinear(1, 1, 1), "layers.*")
    with pytest.raises(ValueError, match=r"children: 0 \(Tanh\), 1 \(Identity\)\."):
        find_blocks(nn.ModuleDict({"0": nn.Tanh(), "1": nn.Identity()}), "layers.*")


def test_other_wrong_names_are_refused(model):
    with pytest.raises(ValueError, match=r"double_blocks\.0' is matched twice"):
        find_blocks(model, ["double_blocks.0", "double_blocks.*"])
    with pytest.raises(ValueError, match=r"names: got none.*single_blocks"):
        find_blocks(model, [])
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got 'x'"):
        find_blocks("x", ["double_blocks.*"])
    with pytest.raises(TypeError, match=r"names: .*got 3, of type int"):
        find_blocks(model, 3)


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        (Mixed(), TypeError, r"one module.*double_blocks\.\* \(1-2 Double\).*from_names"),
        ([], ValueError, "empty list"),
        (nn.ModuleList(), ValueError, "empty ModuleList"),
        ("blocks.*", TypeError, r"'blocks\.\*'.*from_names"),
        (4, TypeError, "got 4"),
        ([nn.Tanh(), "tanh"], TypeError, r"number 2 of 2 is 'tanh', of type str"),
        ([[nn.Tanh()], None], TypeError, r"number 2 of 2 is None"),
    ],
)
def test_what_is_no_list_of_modules_is_refused_with_what_it_is(blocks, error, message):
    with pytest.raises(error, match=message):
        LayerSync(blocks, [(1, 2)])


def test_a_number_past_the_end_is_answered_with_what_stands_where(model):
    with pytest.raises(ValueError, match=r"\(2, 6\).*5 blocks.*1-2 Double, 3-5 Single"):
        LayerSync([model.double_blocks, model.single_blocks], [(2, 6)])


def test_errors_and_repr_name_the_modules(model):
    sync = LayerSync.from_names(model, ["double_blocks.*", "single_blocks.*"], [(2, 4)])
    assert "2: double_blocks.1, Double, 4: single_blocks.1, Single" in repr(sync)
    with pytest.raises(RuntimeError, match=r"block 4 \(single_blocks\.1, Single\)"):
        sync.loss()
