"""Names in two arrays: a list's contents, shared by processes that only read them."""

import multiprocessing
import os
import pickle

import psutil
import pytest

from data.names import Names

GIVEN = ["a/1.png", "", "ü/ﬁ.jpg", os.fsdecode(b"\xff\xfe.png"), "a b/c\n.png"]


def test_they_are_the_list_that_was_given():
    for names in (Names(GIVEN), pickle.loads(pickle.dumps(Names(iter(GIVEN))))):
        assert list(names) == GIVEN and len(names) == len(GIVEN)
        assert names[-1] == GIVEN[-1] and names[1:4:2] == GIVEN[1:4:2]
        assert GIVEN[3] in names and names.index(GIVEN[2]) == 2
        with pytest.raises(IndexError):
            names[len(GIVEN)]
    assert list(Names([])) == []


def growth_of_reading(names, queue) -> None:
    before = psutil.Process().memory_full_info().uss
    for i in range(len(names)):
        names[i]
    queue.put(psutil.Process().memory_full_info().uss - before)


@pytest.mark.parametrize("kind", [list, Names])
def test_a_forked_process_that_reads_them_takes_no_memory(kind):
    """A list grows by about the size of its names: the count of references is beside each."""
    fork = multiprocessing.get_context("fork")
    names, queue = kind([f"class/{i:030d}.png" for i in range(200_000)]), fork.SimpleQueue()
    process = fork.Process(target=growth_of_reading, args=(names, queue))
    process.start()
    process.join()
    growth = queue.get()
    assert growth < 2e6 if kind is Names else growth > 8e6
