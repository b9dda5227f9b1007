"""Tokens from what blocks return: every container and layout has the loss of the plain tensor."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from layersync import LayerSync

A, B = (torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
TEXT = torch.ones(2, 3, 8)
COUNT = torch.arange(4)  # no tokens: integers


@dataclass
class Output:
    tokens: Tensor
    name: str = "block"


@dataclass
class Streams:
    hidden_states: Tensor
    encoder_hidden_states: Tensor


Named = namedtuple("Named", "image text")


class Emit(nn.Module):
    def __init__(self, wrap, value):
        super().__init__()
        self.wrap, self.value = wrap, nn.Parameter(value.clone())

    def forward(self):
        return self.wrap(self.value)


def sync_of(wrap, values=(A, B), **options):
    blocks = [Emit(wrap, value) for value in values]
    sync = LayerSync(blocks, [(1, 2)], **options)
    with sync.capture():
        _ = [block() for block in blocks]
    return sync, blocks


def maps(shape):
    """(N, T, D) as channels-first maps of this size."""
    return lambda x: x.transpose(1, 2).reshape(2, 8, *shape)


CASES = {
    "tensor": (lambda x: x, {}),
    "tuple of one": (lambda x: (x,), {}),
    "tuple with None": (lambda x: (x, None, COUNT), {}),
    "list": (lambda x: [None, x], {}),
    "dict of one tensor": (lambda x: {"x": x, "cache": None}, {}),
    "dict with a field by convention": (lambda x: {"text": TEXT, "hidden_states": x}, {}),
    "dataclass of one tensor": (lambda x: Output(x), {}),
    "dataclass with a field by convention": (lambda x: Streams(x, TEXT), {}),
    "named tuple by name": (lambda x: Named(x, TEXT), dict(select="image")),
    "position": (lambda x: (TEXT, x), dict(select=1)),
    "position from the end": (lambda x: (TEXT, x), dict(select=-1)),
    "name": (lambda x: {"text": TEXT, "image": x}, dict(select="image")),
    "function": (lambda x: torch.cat([TEXT, x], 1), dict(select=lambda out: out[:, 3:])),
    "function of a tuple": (lambda x: (TEXT, [x]), dict(select=lambda out: out[1][0])),
    "video": (lambda x: x.reshape(2, 2, 3, 8), {}),
    "video of volumes": (lambda x: x.reshape(2, 1, 2, 3, 8), {}),
    "sequence first": (lambda x: x.transpose(0, 1), dict(batch_first=False)),
    "sequence first in a tuple": (lambda x: (x.transpose(0, 1), None), dict(batch_first=False)),
    "sequence": (maps((6,)), dict(channels_first=True)),
    "image maps": (maps((2, 3)), dict(channels_first=True)),
    "video maps": (maps((1, 2, 3)), dict(channels_first=True)),
}


@pytest.mark.parametrize(("wrap", "options"), CASES.values(), ids=CASES)
def test_losses_and_gradients_are_those_of_the_plain_tensors(wrap, options):
    plain, plain_blocks = sync_of(lambda x: x)
    sync, blocks = sync_of(wrap, **options)
    expected, actual = plain.loss("none"), sync.loss("none")
    torch.testing.assert_close(actual, expected)
    expected.sum().backward()
    actual.sum().backward()
    torch.testing.assert_close(blocks[0].value.grad, plain_blocks[0].value.grad)
    assert blocks[1].value.grad is None


@pytest.mark.parametrize(
    ("wrap", "options", "error", "message"),
    [
        (
            lambda x: (TEXT, x),
            {},
            ValueError,
            r"tuple of 0: \(2, 3, 8\), 1: .*select=0 or select=1",
        ),
        (lambda x: dict(a=x, b=x), {}, ValueError, r"dict of a: .*select='a' or select='b'"),
        (
            lambda x: (None, COUNT),
            {},
            ValueError,
            r"0: NoneType, 1: \(4,\), no tensor; pass select",
        ),
        (lambda x: "text", {}, ValueError, r"str 'text', no tensor"),
        (lambda x: (x,), dict(select=2), ValueError, r"tuple of 0: .* no entry select=2"),
        (lambda x: Output(x), dict(select="x"), ValueError, r"tokens: .* no entry select='x'"),
        (lambda x: x, dict(select=0), ValueError, r"no entry select=0"),
        (lambda x: (x, 1), dict(select=1), TypeError, r"select=1 is int 1"),
        (lambda x: x, dict(select=lambda out: [out]), TypeError, r"select\(output\) is list"),
        (lambda x: x, dict(select=lambda out: out > 0), TypeError, r"of torch\.bool"),
        (lambda x: x[0], {}, ValueError, r"\(6, 8\)"),
    ],
)
def test_outputs_without_tokens_are_refused_with_what_they_hold(wrap, options, error, message):
    sync, _ = sync_of(wrap, **options)
    with pytest.raises(error, match=rf"block 1 \(Emit\) returned .*{message}"):
        sync.loss()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(select=1.5), TypeError, r"select: .*1\.5, of type float"),
        (dict(select=True), TypeError, "select: .*True"),
        (dict(batch_first=0), TypeError, "batch_first: .*0"),
        (dict(channels_first="no"), TypeError, "channels_first: .*'no'"),
        (dict(batch_first=False, channels_first=True), ValueError, "no such layout"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options, error, message):
    with pytest.raises(error, match=message):
        LayerSync([nn.Tanh(), nn.Tanh()], [(1, 2)], **options)


def test_a_shape_that_would_broadcast_is_refused():
    sync, _ = sync_of(lambda x: x, values=(A, B[:, :1]))
    with pytest.raises(ValueError, match=r"pair \(1, 2\).*\(2, 6, 8\).*\(2, 1, 8\).*select"):
        sync.loss()
