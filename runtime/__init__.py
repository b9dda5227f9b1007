"""Ground floor of every command: command line, errors, processes, randomness, files, the hub."""
