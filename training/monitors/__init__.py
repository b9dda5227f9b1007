"""Monitors that look every N steps of a run: samples, held-out loss, FID, blocks."""
