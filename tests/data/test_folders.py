"""The walk through folders of images: torchvision's order, each folder once."""

import os

import pytest
from torchvision.datasets import ImageFolder

from data.folders import class_images, walk_images

FILES = [
    "b/2.png", "b/10.PNG", "b/deep/x.jpeg", "b/deep-er/y.webp", "b/notes.txt", "a b/1.jpg",
    "a-b/1.tif", "c/only/below/z.bmp", "top.png",
]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    for name in FILES:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "set"


def test_order_and_classes_are_torchvisions(root):
    (root.parent / "elsewhere").mkdir()
    (root.parent / "elsewhere" / "e.png").touch()
    (root / "linked").symlink_to(root.parent / "elsewhere")
    for given in (str(root), f"{root}/", os.path.relpath(root)):
        expected = ImageFolder(given)
        assert class_images(given) == (expected.classes, expected.samples)


def test_what_is_hidden_is_no_image_and_no_class(root):
    """Copies in .ipynb_checkpoints were class 0, and moved all others up by one."""
    before = class_images(str(root))
    for name in (
        ".ipynb_checkpoints/1-checkpoint.png", "b/.ipynb_checkpoints/2-checkpoint.png",
        "b/.hidden.png", "b/._2.png", "__MACOSX/b/._2.png",
    ):  # fmt: skip
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).touch()
    assert class_images(str(root)) == before
    assert sum(len(names) for _, names in walk_images(str(root))) == len(FILES) - 1
    hidden = root.rename(root.parent / ".cache")  # a hidden folder that is named is read
    assert class_images(str(hidden))[0] == before[0]


@pytest.mark.parametrize("link", ["loop", "b/loop", "c/only/loop"])
@pytest.mark.parametrize("target", [".", "..", "c"])
def test_a_link_to_what_is_there_changes_nothing(root, link, target):
    """One to the folder itself multiplied 96 images by 41."""
    if (link, target) == ("loop", "c"):
        return  # a class of its own, see below
    before = class_images(str(root))
    (root.parent / "aside").mkdir()
    (root / link).symlink_to(root / target)
    assert class_images(str(root)) == before
    assert sum(len(names) for _, names in walk_images(str(root))) == len(FILES) - 1


def test_links_below_a_link_are_followed_once(root):
    outside = root.parent / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "o.png").touch()
    (outside / "back").symlink_to(outside)
    (root / "b" / "out").symlink_to(outside)
    (root / "b" / "same").symlink_to(outside / "deep")
    folders = [os.path.relpath(folder, root) for folder, names in walk_images(str(root)) if names]
    assert sorted(folders) == sorted(
        [".", "a b", "a-b", "b", "b/deep", "b/deep-er", "b/out/deep", "c/only/below"]
    )


def test_two_classes_of_one_folder_are_refused(root):
    (root / "d").symlink_to(root / "c")
    with pytest.raises(ValueError, match=r"no images .* of the classes d that are not in another"):
        class_images(str(root))


def test_a_class_without_images_is_refused(root):
    (root / "none").mkdir()
    with pytest.raises(ValueError, match="classes none"):
        class_images(str(root))
