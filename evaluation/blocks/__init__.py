"""What the blocks of a network know: tokens -> probe -> numbers."""
