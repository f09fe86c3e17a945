"""Choose views among many: at a rate, evenly spaced, or as different as possible."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def at_rate(seconds: NDArray[np.float64], fps: float) -> list[int]:
    """Return the indices of the frames nearest to the multiples of 1 / fps, ascending.

    Frames may follow each other at any intervals; a multiple without a frame nearby is left out,
    and so is one after the last frame by half its interval or more.

    Args:
        seconds: (N,) ascending times of the frames.
        fps: Frames to choose from each second.
    """
    multiple = np.rint(seconds * fps)
    distance = np.abs(seconds - multiple / fps)
    nearest_first = np.lexsort((distance, multiple))
    multiples, first = np.unique(multiple[nearest_first], return_index=True)
    end = seconds[-1] + np.diff(seconds[-2:]).sum() / 2
    within = multiples / fps < max(end, 1e-9)
    return [int(index) for index in np.sort(nearest_first[first[within]])]


def evenly(total: int, count: int) -> list[int]:
    """Return `count` indices below `total`, evenly spaced, with the first and the last."""
    if count >= total:
        return list(range(total))
    if count == 1:
        return [0]
    gaps = count - 1
    return [(2 * i * (total - 1) + gaps) // (2 * gaps) for i in range(count)]


def k_center(thumbnails: NDArray[np.uint8], count: int) -> list[int]:
    """Return the indices of `count` pictures that represent all, ascending.

    Farthest-point sampling (Gonzalez 1985): from the first picture, always add the one that is
    farthest from all that were added. Its largest distance from a picture to the nearest chosen one
    is at most twice the smallest possible. Distances are Euclidean, between pictures without their
    mean colour, so that a change of exposure counts less. Equal pictures are chosen once, so that
    the result may be shorter.

    Args:
        thumbnails: (N, 3, h, w) small pictures.
        count: Largest number of pictures to choose.
    """
    pixels = thumbnails.astype(np.float32)
    pixels -= pixels.mean(axis=(2, 3), keepdims=True)
    features = pixels.reshape(len(pixels), -1)
    chosen = [0]
    distance = _squared(features, 0)
    while len(chosen) < count and distance.max() > 0:
        farthest = int(np.argmax(distance))
        chosen.append(farthest)
        distance = np.minimum(distance, _squared(features, farthest))
    return sorted(chosen)


def _squared(features: NDArray[np.float32], index: int) -> NDArray[Any]:
    difference = features - features[index]
    squared: NDArray[Any] = np.einsum("nd,nd->n", difference, difference)
    return squared
