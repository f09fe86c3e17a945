"""Nearest views: as a full sort finds them, copies in a chain, in blocks."""

from __future__ import annotations

import numpy as np
import pytest

from covis.runtime.collection import neighbours
from covis.runtime.collection.neighbours import between, distance, nearest
from tests.runtime.collection.paths import embedded


def random(views: int, channels: int = 24) -> neighbours.Descriptors:
    vectors = np.random.default_rng(views).normal(size=(views, channels)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 700, 10**6])
def test_as_a_full_sort_finds_them(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    vectors = random(60)
    graph = nearest(vectors, 7)
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    assert graph.shape == (60, 60) and graph.nnz == 60 * 7
    np.testing.assert_array_equal(graph.indices.reshape(60, 7), np.argsort(-similar)[:, :7])
    expected = -np.sort(-similar)[:, :7]
    np.testing.assert_allclose(graph.data.reshape(60, 7), expected, atol=1e-6)


def test_fewer_views_than_neighbours() -> None:
    assert nearest(random(5), 16).nnz == 5 * 4
    assert nearest(random(1), 16).nnz == 0


def test_copies_form_a_chain() -> None:
    graph = nearest(np.tile(random(1), (50, 1)), 4)
    rows = graph.indices.reshape(50, 4)
    assert sorted(rows[20]) == [18, 19, 21, 22]
    assert sorted(rows[0]) == [1, 2, 3, 4] and sorted(rows[49]) == [45, 46, 47, 48]


def test_between() -> None:
    vectors = random(9)
    found = between(vectors, np.array([1, 4]), np.array([0, 4, 8]))
    np.testing.assert_allclose(found, (vectors @ vectors.T)[[1, 4]][:, [0, 4, 8]], atol=1e-6)


def test_distances_grow_with_the_steps() -> None:
    vectors = embedded(np.array([[0.0], [0.05], [0.1], [0.2]])).astype(np.float64)
    apart = distance(vectors @ vectors[0])
    assert apart[0] == 0 and apart[2] / apart[1] == pytest.approx(2, rel=0.02)
    np.testing.assert_allclose(apart, np.linalg.norm(vectors - vectors[0], axis=1), atol=1e-6)
