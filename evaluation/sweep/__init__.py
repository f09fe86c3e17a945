"""Sweeps over sparsity settings, and tuning of one setting on a user's own photos."""
