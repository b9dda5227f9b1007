"""Measurements of the blocks of a network: tokens -> probe -> numbers."""
