"""Linear segmentation: counts by hand, heads that solve what can be solved, and its readers."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from launching import check
from PIL import Image
from probing import probe
from random_sit import save_random_sit

from evaluation.blocks.blocks_command import run_blocks
from evaluation.blocks.blocks_config import BlocksConfig, SegmentationOptions
from evaluation.blocks.masked_images import IGNORED, open_masked
from evaluation.blocks.segmentation import Confusion, SegmentationHeads, mean_iou, score_maps
from evaluation.blocks.trained_heads import HeadSettings
from runtime.command import RunError
from runtime.processes import Alone


def test_counts_by_hand():
    masks = torch.tensor([[[0, 0, 1], [1, 255, 2]], [[2, 2, 2], [0, 255, 255]]])
    said = torch.tensor([[[0, 1, 1], [1, 0, 0]], [[2, 2, 0], [0, 1, 2]]])
    confusion = Confusion(1, 1, 4)
    for i in range(2):  # batches add up
        confusion.add(0, 0, said[i : i + 1], masks[i : i + 1])
    expected = [[2, 1, 0, 0], [0, 2, 0, 0], [2, 0, 2, 0], [0, 0, 0, 0]]
    assert confusion.counts[0, 0].tolist() == expected
    actual = confusion.numbers(Alone())
    # class 0: 2 of 5 pixels, class 1: 2 of 3, class 2: 2 of 4; class 3 does not occur
    assert actual["miou"].item() == pytest.approx((2 / 5 + 2 / 3 + 2 / 4) / 3)
    assert actual["accuracy"].item() == pytest.approx(6 / 9)


def test_absent_classes_and_masks_of_nothing():
    perfect = torch.diag(torch.tensor([5.0, 0, 3]))
    assert mean_iou(perfect).item() == 1  # the absent class is left out
    perfect[0, 1] = 5  # unless it is said to be there
    assert mean_iou(perfect).item() == pytest.approx((5 / 10 + 0 + 1) / 3)
    confusion = Confusion(1, 1, 3)
    confusion.add(0, 0, torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), IGNORED))
    assert confusion.counts.sum() == 0
    actual = confusion.numbers(Alone())
    assert actual["miou"].item() == 0 and actual["accuracy"].item() == 0


def test_losses_and_gradients_are_those_of_each_head_alone():
    torch.manual_seed(0)
    heads, masks = SegmentationHeads((2, 3, 5, 4)), torch.randint(0, 4, (2, 8, 8))
    masks[0, :4] = IGNORED
    tokens = [torch.randn(2, 16, 5) for _ in range(3)]
    torch.nn.init.normal_(heads.weight)
    losses = heads.losses(1, heads.reduce(tokens), masks, Alone())
    losses.sum().backward()
    for i, z in enumerate(tokens):
        weight = heads.weight[1, i].detach().requires_grad_()
        maps = score_maps(z, weight, heads.bias[1, i].detach(), (8, 8))
        loss = F.cross_entropy(maps, masks, ignore_index=IGNORED)
        loss.backward()
        assert losses[i].item() == pytest.approx(loss.item(), rel=1e-5)
        torch.testing.assert_close(heads.weight.grad[1, i], weight.grad)
    assert (heads.weight.grad[0] == 0).all()
    nothing = heads.losses(0, heads.reduce(tokens), torch.full_like(masks, IGNORED), Alone())
    assert (nothing == 0).all()


def test_the_best_epoch_of_each_head_is_kept():
    heads = SegmentationHeads((1, 2, 3, 2))
    for epoch, scores in enumerate(([[0.1, 0.5]], [[0.4, 0.2]], [[0.4, 0.3]])):
        torch.nn.init.constant_(heads.weight, epoch)
        heads.remember(torch.tensor(scores), epoch)
    heads.recall()
    assert heads.weight.flatten(2).mean(dim=2).tolist() == [[1, 0]]
    assert heads.best_epoch.tolist() == [[1, 0]]
    again = SegmentationHeads((1, 2, 3, 2))
    again.load_state_dict(heads.state_dict())  # as a killed training does
    assert again.best.equal(heads.best) and again.best_weight.equal(heads.best_weight)


# --- images whose masks are known: a bright rectangle on a dark ground


def pair(i, size=(20, 12)):
    width, height = size
    pixels = np.full((height, width, 3), 40, np.uint8)
    mask = np.zeros((height, width), np.uint8)
    left, top = 2 + i % 5, 1 + i % 4
    pixels[top : top + 7, left : left + 9], mask[top : top + 7, left : left + 9] = 230, 1
    mask[0] = IGNORED
    return Image.fromarray(pixels), Image.fromarray(mask, mode="L")


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc") / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for split, numbers in (("train", range(20)), ("val", range(20, 26))):
        names = [f"2007_{i:06d}" for i in numbers]
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for i, name in zip(numbers, names, strict=True):
            image, mask = pair(i)
            image.save(root / "JPEGImages" / f"{name}.jpg", quality=95)
            mask.convert("P").save(root / "SegmentationClass" / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "a.pt"
    return save_random_sit(path, name="SiT-Ti/1", in_channels=3, num_classes=10)


FLAGS = dict(image_size=8, vae="none", num_workers=0, blocks=(2, 6), probes=("segmentation",))


def config(network, out, masks, **options):
    own = dict(masks=str(masks), mask_classes=2, seg_epochs=5, seg_batch=6, seg_lr=0.1)
    options = SegmentationOptions(**own | options)
    return BlocksConfig(ckpt=(network,), out=str(out), segmentation_options=options, **FLAGS)


def measured(out):
    return json.loads((out / "blocks.json").read_text())["measurements"]


def test_folders_and_rows_give_the_same_images_and_masks(voc, tmp_path):
    import datasets

    for name, numbers in (("train", range(20)), ("validation", range(20, 26))):
        kinds = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
        rows = {"image": [], "mask": []}
        for i in numbers:
            files = ("JPEGImages", "jpg"), ("SegmentationClass", "png")
            for column, (folder, ending) in zip(rows, files, strict=True):
                content = (voc / folder / f"2007_{i:06d}.{ending}").read_bytes()
                rows[column].append({"bytes": content, "path": None})
        data = datasets.Dataset.from_dict(rows, features=kinds)
        data.to_parquet(str(tmp_path / f"{name}-00000-of-00001.parquet"))
    one, two = open_masked(str(voc.parent), 8, 2), open_masked(str(tmp_path), 8, 2)
    for split in ("train", "val"):
        assert len(one[split]) == len(two[split])
        for i in range(len(one[split])):
            assert one[split][i][0].equal(two[split][i][0])
            assert one[split].mask(i).equal(two[split].mask(i))
    assert one["train"][0][0].shape == (3, 8, 8)
    squashed = np.array(pair(3)[1].resize((8, 8), Image.Resampling.NEAREST))
    assert one["train"].mask(3).tolist() == squashed.tolist()


def test_protocols_going_on_and_two_processes(voc, network, tmp_path, capsys):
    probe(config(network, tmp_path / "one", voc))
    (one,) = measured(tmp_path / "one")
    assert "the epoch was chosen on the training set" in capsys.readouterr().out
    assert one["recipe"]["images"] == [18, 2, 6] and one["times"] == [0.999]
    assert np.array(one["values"]["miou"]).min() > 0.7  # brightness tells the classes apart
    assert np.array(one["more"]["losses"]).shape == (5, 1, 2)
    probe(config(network, tmp_path / "paper", voc, protocol="paper"))
    assert "the epoch was chosen on the test set" in capsys.readouterr().out
    (paper,) = measured(tmp_path / "paper")
    assert paper["recipe"]["epoch_chosen_on"] == "the test set"
    assert paper["values"]["miou"] == paper["more"]["best_of_an_epoch"]

    words = ["--ckpt", network, "--probes", "segmentation", "--masks", voc, "--mask-classes", 2,
             "--seg-epochs", 5, "--seg-batch", 6, "--seg-lr", 0.1, "--image-size", 8, "--vae",
             "none", "--num-workers", 0, "--blocks", 2, 6]  # fmt: skip
    check("-m", "evaluation", "blocks", *words, "--out", tmp_path / "two", processes=2)
    (two,) = measured(tmp_path / "two")
    assert two["key"] == one["key"]
    np.testing.assert_allclose(two["more"]["losses"], one["more"]["losses"], rtol=1e-4)
    np.testing.assert_allclose(two["values"]["miou"], one["values"]["miou"], rtol=1e-3)


def test_the_papers_settings_are_the_default():
    from evaluation.blocks.segmentation_experiment import PAPER, TIMES

    assert TIMES == (0.999,)
    assert HeadSettings(
        epochs=25, batch=64, lr=1e-3, optimizer="adamw", weight_decay=1e-4, clip=1.0,
        schedule="constant", flip=False, crop=False,
    ) == PAPER  # fmt: skip


def test_bad_masks_are_refused_by_name(voc, network, tmp_path):
    for masks, said in {
        str(tmp_path / "none"): "cannot be loaded",
        str(voc / "JPEGImages"): "neither VOC2012's folders",
    }.items():
        with pytest.raises(ValueError, match=said):
            run_blocks(config(network, tmp_path / "out", masks))
    with pytest.raises(ValueError, match="give --masks"):
        run_blocks(dataclasses.replace(config(network, tmp_path / "out", voc),
                                       segmentation_options=SegmentationOptions()))  # fmt: skip
    with pytest.raises(ValueError, match="--masks has no effect without --probes segmentation"):
        run_blocks(dataclasses.replace(config(network, tmp_path / "out", voc), probes=("linear",)))

    root = tmp_path / "VOC2012"
    shutil.copytree(voc, root)
    first = root / "SegmentationClass" / "2007_000000.png"
    for mask, said in (
        (pair(0, (19, 12))[1], r"2007_000000\.jpg has 19x12 pixels, its image 20x12"),
        (Image.fromarray(np.full((12, 20), 7, np.uint8)), "has class 7, there are 2, 0 to 1"),
        (pair(0)[0], "has colours"),
    ):
        mask.save(first)
        with pytest.raises(ValueError, match=f"--masks .*{said}"):
            run_blocks(config(network, tmp_path / "out", root))
        with pytest.raises(RunError, match=said):
            open_masked(str(root), 8, 2)["train"].mask(0)
    first.unlink()
    with pytest.raises(ValueError, match=r"train\.txt names .*2007_000000\.png, which is missing"):
        run_blocks(config(network, tmp_path / "out", root))
