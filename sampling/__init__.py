"""What sample_ddp.py wires: settings, presets, labels, the network, the parts of a file."""
