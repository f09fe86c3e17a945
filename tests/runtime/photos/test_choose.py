"""Choosing among views: evenly, at a rate, and by how different they look."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covis.runtime.photos.choose import at_rate, evenly, k_center


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (5, 5, [0, 1, 2, 3, 4]),
        (5, 9, [0, 1, 2, 3, 4]),
        (5, 1, [0]),
        (5, 2, [0, 4]),
        (5, 3, [0, 2, 4]),
        (10, 4, [0, 3, 6, 9]),
    ],
)
def test_even_spacing(total: int, count: int, expected: list[int]) -> None:
    assert evenly(total, count) == expected


@given(total=st.integers(1, 400), count=st.integers(2, 400))
def test_even_spacing_has_both_ends_and_no_repeats(total: int, count: int) -> None:
    chosen = evenly(total, count)
    assert len(chosen) == min(count, total) and chosen[0] == 0 and chosen[-1] == total - 1
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_rate_takes_the_nearest_frames() -> None:
    assert at_rate(np.arange(10) / 10, 2.0) == [0, 5]  # one second of video
    assert at_rate(np.arange(11) / 10, 2.0) == [0, 5, 10]
    assert at_rate(np.arange(30) / 29.97, 7.0) == [0, 4, 9, 13, 17, 21, 26]
    assert at_rate(np.array([0.0]), 2.0) == [0]
    assert at_rate(np.array([0.0, 0.4, 0.6, 5.0]), 1.0) == [0, 2, 3]  # a gap has no frames


@given(st.lists(st.floats(0.001, 3.0), min_size=1, max_size=40), st.floats(0.1, 100))
def test_rate_is_never_exceeded(gaps: list[float], fps: float) -> None:
    seconds = np.concatenate([[0.0], np.cumsum(gaps)])
    chosen = at_rate(seconds, fps)
    assert chosen[0] == 0 and chosen == sorted(set(chosen))
    assert len(chosen) <= seconds[-1] * fps + 1.5


def pictures(*colours: tuple[int, int, int] | int, size: int = 4) -> np.ndarray:
    """Pictures (N, 3, size, size) whose left half has a colour and whose right half is black."""
    out = np.zeros((len(colours), 3, size, size), np.uint8)
    for picture, colour in zip(out, colours, strict=True):
        picture[:, :, : size // 2] = np.reshape(colour, (-1, 1, 1))
    return out


def test_k_center_takes_the_farthest_each_time() -> None:
    # On a line: 0, then 200 (farthest from 0), then 90 (90 from 0; 110 from 200), then 140.
    line = pictures(0, 200, 10, 90, 140)
    assert k_center(line, 1) == [0]
    assert k_center(line, 2) == [0, 1]
    assert k_center(line, 3) == [0, 1, 3]
    assert k_center(line, 4) == [0, 1, 3, 4]


def test_k_center_of_ties_takes_the_first() -> None:
    assert k_center(pictures(0, 50, 50, 50), 2) == [0, 1]


def test_k_center_chooses_equal_pictures_once() -> None:
    assert k_center(pictures(0, 0, 80, 80, 0), 4) == [0, 2]
    assert k_center(pictures(7, 7, 7), 3) == [0]


def test_k_center_counts_no_change_of_exposure() -> None:
    dark = pictures(20, 60)
    brighter = dark + np.uint8(100)
    assert k_center(np.concatenate([dark[:1], brighter[:1], dark[1:]]), 2) == [0, 2]


def test_k_center_is_within_twice_the_best() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.integers(0, 256, (12, 3, 2, 2)).astype(np.uint8)
    pixels = cloud.astype(float)
    features = (pixels - pixels.mean(axis=(2, 3), keepdims=True)).reshape(12, -1)
    distance = np.linalg.norm(features[:, None] - features[None], axis=2)

    def radius(chosen: tuple[int, ...] | list[int]) -> float:
        return float(distance[:, list(chosen)].min(axis=1).max())

    best = min(radius(chosen) for chosen in itertools.combinations(range(12), 4))
    assert best <= radius(k_center(cloud, 4)) <= 2 * best
