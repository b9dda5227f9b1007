"""A checkpoint's share of the work."""

import pytest

from evaluation.blocks.experiments import Subject
from runtime.processes import Alone


@pytest.mark.parametrize("rank", range(3))
def test_every_process_has_a_share_of_the_images(rank):
    processes = Alone()
    processes.rank, processes.count = rank, 3
    subject = Subject("a", None, None, processes, (1,))
    assert subject.share([7, 8, 9, 6], "to fit") == [[7], [8], [9, 6]][rank]
    with pytest.raises(ValueError, match="2 images to fit for 3 processes: use fewer processes"):
        subject.share([7, 8], "to fit")
