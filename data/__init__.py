"""The way from a file to x_1: sources, decoding, order, encoding, the latent cache."""
