"""Labels of a sampling run, as functions of the seed and the image's number."""

import torch

from runtime.randomness import image_streams
from sampling.labels import balanced_labels, random_labels


def test_balanced_labels_have_every_class_once_in_each_block():
    labels = balanced_labels(0, range(30), 10).reshape(3, 10)
    assert torch.equal(labels.sort(dim=1).values, torch.arange(10).repeat(3, 1))
    assert not torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], torch.arange(10))  # not sorted by class


def test_balanced_labels_do_not_depend_on_the_batch():
    whole = balanced_labels(3, range(40), 7)
    assert torch.equal(whole[11:25], balanced_labels(3, range(11, 25), 7))
    assert not torch.equal(whole, balanced_labels(4, range(40), 7))


def test_random_labels_are_uniform():
    """A chi-squared of 10 classes has mean 9 and standard deviation 4.2."""
    labels = random_labels(image_streams(0, range(5000)), 10)
    counts = torch.bincount(labels, minlength=10).double()
    assert ((counts - 500).square() / 500).sum() < 9 + 5 * 4.3
