"""Percentiles of values at the pixels of all views, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from covis.runtime.scene.scene import Scene

# 32 MiB of float32. With more values, a percentile is of an even sample of this size: 20 % of it
# are 20 % of all up to 0.02 percentage points (the standard deviation of a random sample's share).
MOST_VALUES = 8 * 1024**2


def percentiles(
    scene: Scene, values: Callable[[int], NDArray[Any]], percent: float | Sequence[float]
) -> NDArray[np.floating[Any]] | None:
    """Return percentiles of the values of all views: exact up to 8,388,608 values.

    Beyond that, every k-th value enters, in the order of the views, with the smallest k that leaves
    no more than this number.

    Args:
        scene: Scene whose views are read, one after another and twice.
        values: Function that returns the values (n,) of the view of an index.
        percent: Percentage in [0, 100], or several.

    Returns:
        Array () of one percentile or (n,) of several; None where no view has a value.
    """
    count = sum(values(view).size for view in scene.walk())
    if not count:
        return None
    step = -(-count // MOST_VALUES)
    sample = np.empty(-(-count // step), values(0).dtype)
    first = filled = 0
    for view in scene.walk():
        own = values(view)
        chosen = own[first::step]
        sample[filled : filled + len(chosen)] = chosen
        filled += len(chosen)
        first = (first - own.size) % step
    which: Any = percent  # one or several, for which NumPy has two signatures
    found: NDArray[np.floating[Any]] = np.asarray(
        np.percentile(sample, which, overwrite_input=True)
    )
    return found
