"""Parts of a training run: configuration, data, randomness, checkpoints, logging."""
