"""What train.py wires: configuration, data, randomness, checkpoints, logging."""
