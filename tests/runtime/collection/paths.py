"""Descriptors of imagined collections: views on curves, whose similarity falls with distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Descriptors = NDArray[np.float32]

_FREQUENCIES = 128


def embedded(
    places: NDArray[np.float64], width: float = 1.0, contrast: float = 1.0, seed: int = 0
) -> Descriptors:
    """Return unit descriptors (n, 256) whose cosine falls like a Gaussian of the distance.

    Random Fourier features (Rahimi and Recht 2007) of places (n, d).

    Args:
        places: Places of the views.
        width: Distance at which the similarity has fallen clearly.
        contrast: Share of the descriptor that depends on the place; at 0.02 all cosines are above
            0.98, as those of a small model.
        seed: Seed of the features.
    """
    rng = np.random.default_rng(seed)
    frequencies = rng.normal(0, 1 / width, (places.shape[1], _FREQUENCIES))
    phase = places @ frequencies
    features = np.concatenate([np.cos(phase), np.sin(phase)], axis=1) / np.sqrt(_FREQUENCIES)
    common = np.full((len(places), 1), np.sqrt(1 - contrast))
    found = np.concatenate([np.sqrt(contrast) * features, common], axis=1)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def circle(views: int, radius: float = 3.0) -> NDArray[np.float64]:
    """Return places (n, 2) once around a circle, without the first one again."""
    angle = 2 * np.pi * np.arange(views) / views
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def line(views: int, length: float, start: float = 0.0) -> NDArray[np.float64]:
    """Return places (n, 2) along a line."""
    x = np.linspace(start, start + length, views)
    return np.stack([x, np.zeros(views)], axis=1)
