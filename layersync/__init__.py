"""LayerSync: align a shallow block's tokens with a deeper block's, at no extra parameters.

    L = L_velocity + lambda * L_sync,    L_sync = - mean cos(z_k, stopgrad(z_k')),    k < k'

(arXiv 2510.12581, Sec. 3). z_k is the *output* of block k, counted from 1. Usage:

    sync = LayerSync(model.blocks, pairs=[(8, 16)])
    with sync.capture():
        prediction = model(x, t, y)
    loss = task_loss(prediction, target) + 0.2 * sync.loss()

CREPA, its sister for video, aligns a block's frames with a deeper block's frames and their
neighbours (layersync/crepa.py); `with capture(sync, crepa):` records for both.

The package needs torch and nothing else.
"""

from layersync.blocks import find_blocks
from layersync.crepa import CREPA
from layersync.crepa_settings import CREPASettings, read_crepa_settings
from layersync.frames import Neighbours
from layersync.hidden import capture
from layersync.pairs import check_pairs, parse_pairs, suggest_pair
from layersync.regularizer import LayerSync
from layersync.schedule import Schedule, ScheduledWeight
from layersync.settings import Settings, read_settings

__all__ = [
    "CREPA",
    "CREPASettings",
    "LayerSync",
    "Neighbours",
    "Schedule",
    "ScheduledWeight",
    "Settings",
    "capture",
    "check_pairs",
    "find_blocks",
    "parse_pairs",
    "read_crepa_settings",
    "read_settings",
    "suggest_pair",
]
__version__ = "0.1.0"
