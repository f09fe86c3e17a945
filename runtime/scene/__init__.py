"""Reconstructed scene: from raw model outputs to cameras, depth, points and files."""
