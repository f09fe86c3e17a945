"""Percentiles over the pixels of all views."""

from __future__ import annotations

import numpy as np
import pytest

from covis.runtime.scene import percentiles as module
from covis.runtime.scene.percentiles import percentiles
from tests.runtime.scene.random_scene import random_scene


def test_few_values_give_the_exact_percentiles() -> None:
    scene = random_scene(4)
    found = percentiles(scene, lambda view: scene.depth[view][scene.valid[view]], [5.0, 50.0, 99.9])
    expected = np.percentile(scene.depth[scene.valid], [5.0, 50.0, 99.9])
    np.testing.assert_array_equal(found, expected)


def test_many_values_give_those_of_an_even_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VALUES", 100)
    scene = random_scene(4)
    rows = [np.arange(70.0), np.arange(70.0, 70.0), np.arange(70.0, 171.0), np.arange(171.0, 250.0)]
    found = percentiles(scene, rows.__getitem__, [0.0, 50.0, 100.0])
    # Every third of 250 values, across the borders of the views: 0, 3, ..., 249.
    np.testing.assert_array_equal(found, [0.0, 124.5, 249.0])


def test_no_value_gives_none() -> None:
    assert percentiles(random_scene(), lambda view: np.empty(0), 50.0) is None
