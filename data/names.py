"""Names of millions of files in two arrays."""

import os
from collections.abc import Iterable, Sequence

import numpy as np


class Names(Sequence[str]):
    """A sequence of names that takes their bytes and eight more for each.

    Loading processes share it with the process that forked them: it has no object for each name,
    whose count of references each of them would change, so that each had its own copy in the end.
    """

    def __init__(self, names: Iterable[str]):
        encoded = [os.fsencode(name) for name in names]
        self.text = b"".join(encoded)
        self.ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index):
        index = range(len(self))[index]
        if isinstance(index, range):
            return [self[i] for i in index]
        return os.fsdecode(self.text[self.ends[index] : self.ends[index + 1]])
