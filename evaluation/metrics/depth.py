"""Depth errors after one scale for the whole scene."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from covis.evaluation.metrics.pose import Float64


def depth_errors(predicted: ArrayLike, true: ArrayLike) -> tuple[float, float]:
    """Return AbsRel and delta < 1.25 after alignment of the scale by the ratio of the medians.

    AbsRel = mean |s d - d*| / d*; delta = share with max(s d / d*, d* / s d) < 1.25 (Eigen et al.,
    NIPS 2014); s = median(d*) / median(d) (Zhou et al., CVPR 2017), one scale for all pixels of all
    views of a scene, so that a view with another scale is an error.

    Args:
        predicted: (N,) z-depths. One that is not positive and finite counts as infinitely deep for
            delta, and as an error of 1 for AbsRel.
        true: (N,) z-depths, positive and finite.

    Returns:
        AbsRel and delta, both NaN where there is no pixel.
    """
    d, t = np.asarray(predicted, np.float64).ravel(), np.asarray(true, np.float64).ravel()
    if not len(t):
        return float("nan"), float("nan")
    sound = np.isfinite(d) & (d > 0)
    if not sound.any():
        return 1.0, 0.0
    scaled = median_scale(d[sound], t[sound]) * d[sound]
    relative = np.abs(scaled - t[sound]) / t[sound]
    within = np.maximum(scaled / t[sound], t[sound] / scaled) < 1.25
    missing = len(t) - len(scaled)
    return float((relative.sum() + missing) / len(t)), float(within.sum() / len(t))


def median_scale(predicted: Float64, true: Float64) -> float:
    """Return median(true) / median(predicted)."""
    return float(np.median(true) / np.median(predicted))
