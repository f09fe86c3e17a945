"""Weights on disk: checkpoints, conversion, and initializers that point into them."""
