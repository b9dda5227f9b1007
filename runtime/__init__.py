"""What every command stands on: command line, errors, processes, randomness, files, the hub."""
