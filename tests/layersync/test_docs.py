"""docs/layersync.md: its Python runs as it stands there, the first of it in six lines."""

import re

import torch
from launching import ROOT
from torch import nn
from torch.nn.functional import mse_loss

CODE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "layersync.md").read_text(), re.S)


class Model(nn.Module):
    """Transformer blocks under every name that the page uses."""

    def __init__(self):
        super().__init__()
        self.transformer_blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))
        self.single_transformer_blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.blocks, self.double_blocks = self.transformer_blocks, self.transformer_blocks
        self.single_blocks = self.single_transformer_blocks

    def forward(self, x):
        for block in [*self.transformer_blocks, *self.single_transformer_blocks]:
            x = block(x)
        return x


def scope():
    x = torch.randn(2, 5, 8)
    names = dict(model=Model(), batch=dict(x=x), target=x, task_loss=mse_loss, pairs=[(2, 5)])
    names |= dict(width=8, frames=5, torch=torch)
    exec("from layersync import CREPA, LayerSync", names)
    return names


def test_plugging_in_takes_six_lines_that_run():
    names = scope()
    exec(CODE[0], names)
    assert len([line for line in CODE[0].splitlines() if line.strip()]) == 6
    assert names["model"].blocks[0].weight.grad.abs().sum() > 0
    assert names["sync"].similarity().keys() == {(2, 5)}


def test_the_rest_of_the_code_runs(capsys):
    for code in CODE[1:]:
        exec(code, scope())
    printed = capsys.readouterr().out
    assert "layersync_similarity" in printed and "crepa_alignment_score" in printed
    assert "crepa_teacher_block_index 4 is block 5" in printed
