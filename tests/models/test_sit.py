"""The SiT network: golden outputs, its start at zero, label dropout, patches, and bad sizes."""

import gc
import re
import weakref
from pathlib import Path

import pytest
import torch

from models import SiT

TINY = dict(input_size=8, patch_size=2, in_channels=4, hidden_size=16, depth=2, num_heads=2)


def batch(n=3, channels=4, classes=10):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, 8, 8, generator=generator)
    return x, torch.rand(n, generator=generator), torch.randint(classes, (n,), generator=generator)


def randomised(**sizes):
    """A SiT in which nothing starts at zero."""
    torch.manual_seed(0)
    model = SiT(**{**TINY, "num_classes": 10, **sizes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_every_golden_array_belongs_to_one_family_and_every_family_to_a_test(
    golden_families, golden_keys
):
    for key in golden_keys:
        assert sum(bool(re.fullmatch(p, key)) for p in golden_families.values()) == 1, key
    sources = [path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py")]
    tested = {name for text in sources for name in re.findall(r'golden_family\("(\w+)"\)', text)}
    assert tested == set(golden_families) - {"inputs"}
    for key in golden_keys:
        if re.fullmatch(golden_families["inputs"], key):
            assert any(f'golden("{key}")' in text for text in sources), key


@pytest.mark.golden_family("output")
def test_output_is_golden(key, check_golden, golden_model, golden_batch):
    check_golden(key, golden_model(*golden_batch))


@pytest.mark.golden_family("weights")
def test_state_dict_has_the_official_key_and_shape(key, golden):
    fresh = SiT(8, 2, 4, hidden_size=32, depth=6, num_heads=4, num_classes=10)
    assert fresh.state_dict()[key.removeprefix("weights/")].shape == golden(key).shape


def test_state_dict_has_no_other_keys(golden_model, golden_keys):
    official = {k.removeprefix("weights/") for k in golden_keys if k.startswith("weights/")}
    assert set(golden_model.state_dict()) == official


def test_a_fresh_position_embedding_is_sines_and_cosines_of_column_and_row():
    fresh = SiT(8, 2, 4, hidden_size=32, depth=1, num_heads=4).pos_embed
    frequencies = 10_000 ** (-torch.arange(8, dtype=torch.float64) / 8)
    for token in range(16):
        angles = [position * frequencies for position in (token % 4, token // 4)]
        expected = torch.cat([wave for a in angles for wave in (a.sin(), a.cos())]).float()
        torch.testing.assert_close(fresh[0, token], expected)
    assert not fresh.requires_grad


@pytest.mark.parametrize("train", [True, False])
def test_a_fresh_model_returns_zero(train):
    model = SiT(**TINY, num_classes=10).train(train)
    assert model(*batch()).equal(torch.zeros(3, 4, 8, 8))


def test_fresh_blocks_are_the_identity():
    block = SiT(**TINY).blocks[0]
    x = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    assert block(x, x[:, 0]).equal(x)


def test_samples_do_not_see_each_other():
    model, (x, t, y) = randomised().eval(), batch()
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(model(x, t, y), alone, rtol=1e-5, atol=1e-5)


def test_output_depends_on_time_and_class():
    model, (x, t, y) = randomised().eval(), batch()
    out = model(x, t, y)
    for other in (model(x, 1 - t, y), model(x, t, (y + 1) % 10)):
        assert (other - out).flatten(1).norm(dim=1).min() > 1e-3


@pytest.mark.parametrize("train", [True, False])
def test_forced_drop_is_the_null_label(train):
    model, (x, t, y) = randomised().train(train), batch()
    drop = torch.tensor([True, False, True])
    dropped = model(x, t, y, force_drop_ids=drop)
    null = model(x, t, torch.tensor([10, y[1], 10]), force_drop_ids=torch.zeros(3).bool())
    assert dropped.equal(null)


def test_training_drops_labels_at_the_given_rate_and_evaluation_none():
    torch.manual_seed(0)
    embedder = randomised(class_dropout_prob=0.3).y_embedder
    n = 20_000
    y = torch.randint(10, (n,))
    dropped = (embedder(y, train=True) == embedder.embedding_table.weight[10]).all(dim=1)
    # four standard errors of a proportion
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / n) ** 0.5)
    kept = embedder(y, train=True)[~dropped][:5]
    assert kept.shape == (5, 16)
    assert embedder(y, train=False).equal(embedder.embedding_table.weight[y])


def test_labels_that_are_not_dropped_stay_what_they_are():
    embedder, y = randomised(class_dropout_prob=0.5).y_embedder, torch.arange(10).repeat(20)
    table, given = embedder.embedding_table.weight, embedder(y, train=True)
    own, null = (given == table[y]).all(dim=1), (given == table[10]).all(dim=1)
    assert (own ^ null).all() and own.any() and null.any()


def test_without_dropout_there_is_no_null_label():
    model = randomised(class_dropout_prob=0.0)
    assert model.y_embedder.embedding_table.weight.shape == (10, 16)
    out = model.train()(*batch())
    assert out.equal(model.eval()(*batch()))
    with pytest.raises(ValueError, match="class_dropout_prob 0"):
        _ = model.null_label


@pytest.mark.parametrize("classes", [7, 10, 1000])
def test_null_label_is_the_number_of_classes(classes):
    model = SiT(**TINY, num_classes=classes)
    assert model.null_label == classes
    assert model.y_embedder.embedding_table.num_embeddings == classes + 1


def test_learn_sigma_computes_twice_the_channels_and_returns_the_first_half():
    model = randomised(learn_sigma=True).eval()
    plain = randomised(learn_sigma=False).eval()
    assert model.final_layer.linear.out_features == 2 * plain.final_layer.linear.out_features == 32
    state = model.state_dict()
    first = torch.arange(32).reshape(4, 8)[:, :4].flatten()  # of 2C channels at each patch pixel
    for key in ("final_layer.linear.weight", "final_layer.linear.bias"):
        state[key] = state[key][first]
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(*batch()), model(*batch()))


@pytest.mark.parametrize(("patch", "channels"), [(1, 3), (2, 4), (4, 1)])
def test_unpatchify_inverts_patchification(patch, channels):
    model = SiT(8, patch, channels, hidden_size=16, depth=1, num_heads=2)
    x = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    tokens = [
        x[:, :, i : i + patch, j : j + patch].permute(0, 2, 3, 1).flatten(1)  # pixel by pixel
        for i in range(0, 8, patch)
        for j in range(0, 8, patch)
    ]
    assert model.unpatchify(torch.stack(tokens, dim=1)).equal(x)


@pytest.mark.parametrize("channels", [1, 3])
def test_other_numbers_of_channels_run(channels):
    model = randomised(in_channels=channels).eval()
    assert model(*batch(channels=channels)).shape == (3, channels, 8, 8)


def test_forward_keeps_no_block_output(golden_model, golden_batch):
    outputs = []
    for block in golden_model.blocks:
        block.register_forward_hook(lambda m, a, o: outputs.append(weakref.ref(o)))
    with torch.no_grad():
        golden_model(*golden_batch)
    gc.collect()
    assert len(outputs) == 6
    assert [output() for output in outputs] == [None] * 6


def test_bfloat16_weights_give_nearly_the_same_output(golden_model, golden_batch):
    x, t, y = golden_batch
    full = golden_model(x, t, y)
    half = golden_model.bfloat16()(x.bfloat16(), t, y)
    assert half.dtype == torch.bfloat16
    assert (half - full).norm() < 0.05 * full.norm()


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        (dict(input_size=9), ("input_size 9", "patch_size 2")),
        (dict(patch_size=3), ("input_size 8", "patch_size 3")),
        (dict(hidden_size=20, num_heads=3), ("hidden_size 20", "num_heads 3")),
        (dict(hidden_size=18), ("hidden_size 18", "4")),
    ],
)
def test_sizes_that_do_not_divide_are_refused_by_name_and_value(sizes, named):
    with pytest.raises(ValueError) as error:
        SiT(**{**TINY, **sizes})
    assert all(text in str(error.value) for text in named)
