"""Depth errors against sorted lists, whatever the scale."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covis.evaluation.metrics.depth import depth_errors

DEPTHS = st.lists(st.tuples(st.floats(0.1, 50), st.floats(0.1, 50)), min_size=1, max_size=40).map(
    np.array
)


@given(DEPTHS, st.floats(0.01, 100))
@settings(deadline=None)
def test_oracle_and_scale(pairs: np.ndarray, scale: float) -> None:  # type: ignore[type-arg]
    predicted, true = pairs.T
    s = statistics.median(true) / statistics.median(predicted)
    relative = [abs(s * d - t) / t for d, t in zip(predicted, true, strict=True)]
    found = depth_errors(predicted, true)
    assert found[0] == pytest.approx(statistics.mean(relative))
    # Ratios that are 1.25 up to rounding may fall on either side.
    ratios = [max(s * d / t, t / (s * d)) for d, t in zip(predicted, true, strict=True)]
    low, high = (sum(r < 1.25 * (1 + e) for r in ratios) / len(ratios) for e in (-1e-9, 1e-9))
    assert low - 1e-12 <= found[1] <= high + 1e-12
    again = depth_errors(scale * predicted, true)
    assert again[0] == pytest.approx(found[0])


def test_perfect_missing_and_empty() -> None:
    true = np.linspace(1, 9, 9)
    assert depth_errors(3 * true, true) == (pytest.approx(0.0), 1.0)
    broken = true.copy()
    broken[[0, 8]] = np.nan, -1.0  # the median of the rest is the same
    assert depth_errors(broken, true) == (pytest.approx(2 / 9), pytest.approx(7 / 9))
    assert depth_errors(np.full(3, np.nan), true[:3]) == (1.0, 0.0)
    assert np.isnan(depth_errors([], [])).all()
