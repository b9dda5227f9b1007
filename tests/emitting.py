"""A block for tests of what regularisers make of outputs."""

from torch import nn


class Emit(nn.Module):
    """A block that returns what it is told to."""

    def __init__(self, value=None):
        super().__init__()
        self.value = value

    def forward(self):
        return self.value
