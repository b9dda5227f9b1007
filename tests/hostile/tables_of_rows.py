"""The tables of bad inputs: of runs and their files, and of the commands around them.

row.py says what a row is. There are two that take about as long, so that two workers share them.
"""

from hostile.altered_checkpoints import checkpoint_file_rows
from hostile.altered_data import data_rows
from hostile.altered_samples import sample_file_rows
from hostile.altered_settings import settings_rows
from hostile.altered_weights import altered_weights_rows
from hostile.bad_flags import flag_rows
from hostile.bad_outputs import output_rows
from hostile.bad_scores import scoring_rows
from hostile.begun_outputs import begun_rows
from hostile.contradictions import contradiction_rows
from hostile.controls import control_rows
from hostile.masked_images import masked_image_rows
from hostile.other_scripts import script_rows
from hostile.probed_blocks import probed_block_rows
from hostile.probing_and_sharing import altered_probing_rows, probing_rows
from hostile.recipes_and_folders import recipe_rows
from hostile.sweep_commands import sweep_command_rows
from hostile.unfit_data import unfit_rows

ALTERED_FILES_OF_RUNS = [
    *checkpoint_file_rows(),
    *data_rows(),
    *settings_rows(),
    *unfit_rows(),
    *altered_weights_rows(),
]
RUNS = [
    *flag_rows(),
    *contradiction_rows(),
    *ALTERED_FILES_OF_RUNS,
    *control_rows(),
]
COMMANDS = [
    *output_rows(),
    *begun_rows(),
    *sample_file_rows(),
    *probing_rows(),
    *altered_probing_rows(),
    *sweep_command_rows(),
    *recipe_rows(),
    *script_rows(),
    *scoring_rows(),
    *probed_block_rows(),
    *masked_image_rows(),
]
