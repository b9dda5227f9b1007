"""Steps as loaders give them: everything in one block, the same for any number of workers."""

import errno
import gc
import pickle
import resource
from multiprocessing import AuthenticationError

import pytest
import torch
from torch.utils.data import DataLoader

from data.data_config import DataConfig
from data.draws import Draw
from data.loader import make_step_loader, make_whole
from data.order import StepBatches
from data.packing import ALIGNMENT, Packed
from data.sources import open_source
from runtime.command import RunError
from runtime.randomness import step_streams
from training.step_draws import StepDraws
from transport import create_transport

SHARD = range(4, 8)  # of a batch of 12


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "images": torch.randint(256, (3, 1, 5, 5), dtype=torch.uint8, generator=generator),
        "flags": torch.tensor([True, False, True]),
        "labels": torch.tensor([1, -(2**40), 3]),
        "half": torch.randn(3, 7, generator=generator).half(),
        "none": torch.empty(3, 0),
        "x_0": torch.randn(3, 2, 3, generator=generator),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
    }


def test_a_block_gives_back_what_was_packed():
    given = tensors()
    packed = pickle.loads(pickle.dumps(Packed.of(7, given)))
    placed = packed.to("cpu")
    assert packed.step == 7 and list(placed) == list(given)
    for name, tensor in given.items():
        assert placed[name].dtype == tensor.dtype and torch.equal(placed[name], tensor)
        assert torch.equal(packed[name], tensor)
    assert all(place.first % ALIGNMENT == 0 for place in packed.places.values())
    blocks = {tensor.untyped_storage().data_ptr() for tensor in placed.values()}
    assert len(blocks) == 1  # views of one block, which one copy brings


class Signed:
    """Stands for what is read from disk: the images' numbers, or minus them where mirrored."""

    def __call__(self, images, mirrored):
        numbers = torch.tensor(images)
        return torch.where(mirrored, -numbers, numbers)


def draws(**changes):
    given = dict(
        seed=3, transport=create_transport(), dropout=0.5, noise_shape=(2, 3),
        latent_shape=(1, 8, 8), extra=[Draw("shift"), Draw("field", (2,))],
        reads={"stored": Signed()},
    )  # fmt: skip
    return StepDraws(**(given | changes))


@pytest.fixture(scope="module")
def steps():
    """Steps 2 to 5 of the digits, made in this process."""
    return [packed.to("cpu") for packed in loader(0)]


def loader(workers):
    source = open_source(DataConfig(dataset_name="digits", image_size=8))
    order = StepBatches(len(source), 12, 3, 2, 6, SHARD)
    return make_step_loader(source, order, workers, draws())


def test_a_step_holds_its_samples_own_draws_in_the_order_of_a_run(steps):
    """Each sample's stream, drawn by hand: mirror, drop, t, noise, x_0, then what is declared."""
    for step, placed in enumerate(steps, start=2):
        streams = step_streams(3, step, SHARD)
        assert torch.equal(placed["mirrored"], streams.uniform() < 0.5)
        assert torch.equal(placed["dropped"], streams.uniform() < 0.5)
        assert torch.equal(placed["t"], streams.uniform())
        assert torch.equal(placed["noise"], streams.normal((2, 3)))
        assert torch.equal(placed["x_0"], streams.normal((1, 8, 8)))
        assert torch.equal(placed["shift"], streams.uniform())
        assert torch.equal(placed["field"], streams.normal((2,)))


def test_images_labels_and_what_is_read_are_of_the_same_samples(steps):
    source = open_source(DataConfig(dataset_name="digits", image_size=8))
    order = StepBatches(len(source), 12, 3, 0, 1, SHARD)
    for step, placed in enumerate(steps, start=2):
        numbers = order.indices(step, SHARD)
        assert torch.equal(placed["images"], torch.stack([source[i][0] for i in numbers]))
        assert placed["labels"].tolist() == [source[i][1] for i in numbers]
        assert placed["labels"].dtype == torch.int64
        signs = torch.where(placed["mirrored"], -1, 1)
        assert torch.equal(placed["stored"], signs * torch.tensor(numbers))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_steps(steps, workers):
    made = list(loader(workers))
    assert [packed.step for packed in made] == [2, 3, 4, 5]
    for packed, expected in zip(made, steps, strict=True):
        placed = packed.to("cpu")
        assert placed.keys() == expected.keys()
        assert all(torch.equal(placed[name], expected[name]) for name in expected)


def test_what_workers_need_can_be_pickled_for_them():
    again = pickle.loads(pickle.dumps(draws()))
    for name, value in draws()(5, SHARD, [1, 2, 3, 4]).items():
        assert torch.equal(again(5, SHARD, [1, 2, 3, 4])[name], value)


def test_without_images_nothing_is_read_and_without_noise_the_rest_moves_up():
    drawn = draws(noise_shape=None)(5, SHARD)
    assert drawn.keys() == {"mirrored", "dropped", "t", "x_0", "shift", "field"}
    streams = step_streams(3, 5, SHARD)
    for _ in range(3):
        streams.uniform()
    assert torch.equal(drawn["x_0"], streams.normal((1, 8, 8)))


def test_a_loader_pins_the_one_block(monkeypatch):
    """As its pinning thread does on a machine with a GPU, which pinning itself needs."""
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x, *_: pinned.append(x) or x.clone())
    packed = Packed.of(7, tensors())
    again = pin_memory(packed)
    assert len(pinned) == 1 and pinned[0] is packed.block
    assert isinstance(again, Packed) and again.step == 7 and again.places == packed.places
    assert torch.equal(again.block, packed.block)


class Large(torch.utils.data.Dataset):
    """Batches that are larger than any file, those of shared memory too, that may be written."""

    def __getitem__(self, number):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        return Packed.of(number, {"images": torch.zeros(100_000)})


def test_a_lack_of_shared_memory_is_said_and_nobody_waits(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    with pytest.raises(
        RunError, match=r"no shared memory for a batch of 0\.4 MB \(.*give --num-wo"
    ):
        next(iter(make_whole(Large(), 1, sampler=range(3))))
    gc.collect()  # the loader, which waits that long for its process


PINNED = 'Caught EOFError in pin memory thread for device 0.\n  File "resource_sharer.py", line 57'


@pytest.mark.parametrize(
    "error",
    [
        EOFError(),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),  # its socket
        AuthenticationError("digest received was wrong"),
        EOFError(PINNED),
    ],
)
def test_a_process_that_is_killed_while_it_hands_over_a_batch_is_named(monkeypatch, error):
    """torch raises what the line to it does, if the system has not counted it among the dead."""
    monkeypatch.setattr(DataLoader, "__iter__", lambda self: broken(error))
    with pytest.raises(ConnectionError, match="DataLoader worker ended"):
        next(iter(loader(1)))
    with pytest.raises(type(error)):
        next(iter(loader(0)))


@pytest.mark.parametrize("error", [EOFError("Caught EOFError"), FileNotFoundError(2, "no", "a")])
def test_errors_of_the_data_stay(monkeypatch, error):
    monkeypatch.setattr(DataLoader, "__iter__", lambda self: broken(error))
    with pytest.raises(type(error)) as raised:
        next(iter(loader(1)))
    assert raised.value is error


def broken(error):
    raise error
    yield
