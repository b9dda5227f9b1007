"""The parts that sample_ddp.py puts together: settings, presets, labels, network, recipe, file."""
