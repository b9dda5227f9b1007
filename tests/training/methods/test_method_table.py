"""The table of methods against the command line, and that each row is a method by itself."""

import dataclasses
from typing import get_args, get_type_hints

import pytest

from training.config import TrainConfig
from training.methods.methods import METHODS, SYNONYMS, methods_of, named_methods


def loss_types():
    return get_args(get_type_hints(TrainConfig)["loss_type"])


def test_every_word_of_the_command_line_is_in_the_table():
    words = {SYNONYMS.get(word, word) for name in loss_types() for word in name.split("+")}
    assert words - {"vanilla"} == set(METHODS)


@pytest.mark.parametrize("loss_type", loss_types())
def test_a_loss_makes_its_methods_in_the_tables_order(loss_type):
    pairs = "[(2, 5)]" if loss_type == "multiple_sync" else None
    c = TrainConfig(loss_type=loss_type, multi_blocks_match=pairs, model="SiT-Ti/2")
    named = named_methods(c)
    assert [METHODS[word](c) for word in named] == methods_of(c)
    assert named == sorted(named, key=list(METHODS).index)
    for word, method in zip(named, methods_of(c), strict=True):
        *blocks, weight = method.folder_parts("SiT-Ti/2")
        assert blocks and weight.startswith("lambda"), word
        method.check(c)


def test_a_watched_pair_is_made_but_not_named():
    c = TrainConfig(loss_type="sra", encoder_depth=2, model="SiT-Ti/2")
    assert named_methods(c) == ["sra"] and len(methods_of(c)) == 2
    assert methods_of(c)[0].folder_parts("SiT-Ti/2") == []
    assert methods_of(dataclasses.replace(c, encoder_depth=None)) == [c.sra]
