"""Knowledge of the blocks of a network: tokens -> probe -> numbers."""
