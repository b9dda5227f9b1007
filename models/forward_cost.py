"""Floating-point operations of SiT's passes, counted from its sizes. No torch here.

A product of matrices counts a multiplication and an addition for each pair of numbers; what is
elementwise is not counted. A backward pass counts as two forward passes.
"""

from models.sizes import dimensions

BACKWARD = 2  # cost of a backward pass, in forward passes
FREQUENCIES = 256  # of the time embedding's input (models/sit.py)


def transformer_blocks(depth: int, width: int, tokens: int) -> int:
    """Return the operations of plain transformer blocks on one sequence."""
    products = 12 * width**2 + 2 * tokens * width  # qkv, output and MLP; attention
    return 2 * depth * tokens * products


def forward_operations(model: str, size: int, channels: int) -> int:
    """Return the operations of a SiT's forward pass on one input of (channels, size, size)."""
    sizes = dimensions(model)
    depth, width, patch = sizes["depth"], sizes["hidden_size"], sizes["patch_size"]
    tokens, values = (size // patch) ** 2, channels * patch**2
    embedding = tokens * values * width + FREQUENCIES * width + width**2
    modulation = depth * 6 * width**2 + 2 * width**2
    output = tokens * width * 2 * values  # learn_sigma: twice the channels
    return transformer_blocks(depth, width, tokens) + 2 * (embedding + modulation + output)
