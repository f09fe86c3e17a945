"""Pose graphs: exact, noisy, with outliers, bridges, components and drift; derivatives."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from covis.engines.errors import CovisError, ExitCode
from covis.runtime.collection import sim3
from covis.runtime.collection.join import relative_similarity
from covis.runtime.collection.pose_edges import Edge, measured
from covis.runtime.collection.pose_graph import Placement, edge_of, place
from covis.runtime.scene.similarity import Similarity
from tests.runtime.collection.pose_graphs import (
    edge_between,
    known_graph,
    known_places,
    place_errors,
    wrong_edge,
)
from tests.runtime.collection.true_parts import difference, in_world, some_motion, true_part


def chain(parts: int, sigma: float, seed: int = 0) -> tuple[tuple[Similarity, ...], list[Edge]]:
    places, rng = known_places(parts, seed), np.random.default_rng(seed)
    return places, [edge_between(places, (i, i + 1), sigma, "cut", rng) for i in range(parts - 1)]


def worst(found: Placement, places: tuple[Similarity, ...]) -> tuple[float, float, float]:
    errors = place_errors(found.similarities, places)
    shift, angle, scale = errors.shift, errors.rotation_deg, errors.log_scale
    return float(np.max(shift)), float(np.max(angle)), float(np.max(scale))


def test_one_part_and_none() -> None:
    alone = place(1, [])
    assert len(alone.similarities) == 1
    assert alone.similarities[0].scale == 1.0
    assert place(0, []).similarities == ()


@pytest.mark.parametrize("swapped", [False, True])
def test_two_parts_lie_as_their_edge_says(swapped: bool) -> None:
    motion = some_motion(1, 3.0)
    edge = Edge(1, 0, motion.inverse()) if swapped else Edge(0, 1, motion)
    found = place(2, [edge])
    log_scale, angle, shift = difference(found.similarities[1], motion)
    assert max(log_scale, angle, *np.abs(shift)) < 1e-6
    assert found.bridges.tolist() == [True]
    assert not found.dropped.any()


def test_a_junction_becomes_an_edge() -> None:
    second, true = true_part(3), some_motion(2, 0.5)
    junction = relative_similarity(in_world(second, true), second, range(3), range(3))
    found = place(2, [edge_of(0, 1, junction, "loop")])
    log_scale, angle, _ = difference(found.similarities[1], true)
    assert max(log_scale, angle) < 1e-4


def test_an_exact_chain_and_its_loops_keep_no_error() -> None:
    graph = known_graph(40, 20, 0.0, 0.0)
    found = place(40, graph.edges)
    assert max(worst(found, graph.places)) < 1e-5
    assert found.residuals.translation.max() < 1e-6
    assert not found.dropped.any()
    assert found.factor == 1.0


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_units_of_the_parts_do_not_matter(scale: float) -> None:
    graph = known_graph(20, 0, 0.0, 0.01, seed=1)
    rng = np.random.default_rng(0)
    loop = edge_between(graph.places, (0, 19), 0.01, "loop", rng)
    edges = [*graph.edges, loop]
    units = [Similarity(scale if i % 2 else 1.0, np.eye(3), np.zeros(3)) for i in range(20)]
    other = [
        replace(
            e,
            similarity=units[e.first].after(e.similarity).after(units[e.second].inverse()),
            centre=units[e.second].points(e.centre),
            radius=units[e.second].scale * e.radius,
        )
        for e in edges
    ]
    one, two = place(20, edges), place(20, other)
    for i in range(20):
        log_scale, angle, shift = difference(
            two.similarities[i].after(units[i]), one.similarities[i]
        )
        assert max(log_scale, angle, *np.abs(shift)) < 1e-4
    np.testing.assert_allclose(one.residuals.translation, two.residuals.translation, atol=1e-6)


@pytest.mark.parametrize("seed", [1, 5])
def test_a_fifth_of_outliers_is_left_out(seed: int) -> None:
    """100 parts; those that hang on a single right edge cannot be told from the wrong ones."""
    graph = known_graph(100, 250, 0.2, 0.01, seed)
    found = place(100, graph.edges)
    errors = place_errors(found.similarities, graph.places)
    right = errors.shift < 0.2
    assert right.sum() >= 98
    assert errors.rotation_deg[right].max() < 3
    assert errors.log_scale[right].max() < 0.05
    assert np.median(errors.rotation_deg) < 1
    # What is wrong and stays is the only connection of a part, and said to be.
    assert not (graph.wrong & ~found.dropped & ~found.bridges).any()
    assert (~graph.wrong & found.dropped).sum() <= 2


def test_a_loop_closes_the_drift_of_scale() -> None:
    """Each edge of a round shrinks by 1 %: a third at the end, which one loop edge spreads."""
    places, edges = chain(30, 0.0)
    shrunk = [
        replace(e, sigma=0.02, similarity=replace(e.similarity, scale=0.99 * e.similarity.scale))
        for e in edges
    ]
    loop = edge_between(places, (0, 29), 0.0, "loop", np.random.default_rng(0))
    open_, closed = place(30, shrunk), place(30, [*shrunk, replace(loop, sigma=0.02)])
    drift = np.log(0.99) * 29
    last = difference(open_.similarities[29], places[0].inverse().after(places[29]))[0]
    assert last == pytest.approx(-drift, rel=1e-6)
    assert closed.start.log_scale[-1] == pytest.approx(drift, rel=1e-6)
    assert abs(closed.residuals.log_scale[-1]) < 0.02
    assert closed.residuals.translation[-1] < 0.1 * closed.start.translation[-1]
    assert not closed.dropped.any()
    assert not closed.bridges.any()
    assert worst(closed, places)[2] < 0.5 * worst(open_, places)[2]


def test_a_wrong_bridge_stays_and_is_named() -> None:
    places, edges = chain(10, 0.0)
    edges[4] = wrong_edge(edges[4], np.random.default_rng(1))
    found = place(10, edges)
    assert found.component.tolist() == [0] * 10
    assert not found.dropped.any()
    assert found.bridges.all()
    for half in (slice(0, 5), slice(5, 10)):
        ours = tuple(found.similarities[0].inverse().after(s) for s in found.similarities[half])
        assert max(place_errors(ours, places[half]).shift) < 1e-5


def test_an_outlier_beside_a_confirmed_way_is_dropped() -> None:
    places, edges = chain(12, 0.005)
    rng = np.random.default_rng(3)
    good = [edge_between(places, (i, i + 2), 0.005, "loop", rng) for i in range(10)]
    bad = wrong_edge(edge_between(places, (2, 9), 0.005, "loop", rng), rng)
    found = place(12, [*edges, *good, bad])
    assert found.dropped.tolist() == [False] * 21 + [True]
    assert not found.bridges.any()
    assert worst(found, places)[0] < 0.1


def test_sigmas_that_are_too_small_are_found_out() -> None:
    graph = known_graph(60, 120, 0.1, 0.04, seed=2)
    optimistic = [replace(edge, sigma=0.004) for edge in graph.edges]
    found = place(60, optimistic)
    assert 5 < found.factor < 12
    assert (found.dropped & ~graph.wrong).sum() <= 6
    assert not (graph.wrong & ~found.dropped & ~found.bridges).any()


def test_parts_without_a_chain_between_them_are_components() -> None:
    places, edges = chain(6, 0.0)
    apart = [edges[0], edges[1], edges[3], edges[4]]
    found = place(7, apart)
    assert found.component.tolist() == [0, 0, 0, 1, 1, 1, 2]
    for lowest in (0, 3, 6):
        assert found.similarities[lowest].scale == 1.0
        np.testing.assert_array_equal(found.similarities[lowest].translation, np.zeros(3))
    log_scale, angle, _ = difference(found.similarities[5], places[3].inverse().after(places[5]))
    assert max(log_scale, angle) < 1e-5


def test_several_edges_between_two_parts() -> None:
    places = known_places(2, 0)
    rng = np.random.default_rng(0)
    good = [edge_between(places, (0, 1), 0.01, "cut", rng) for _ in range(3)]
    found = place(2, [*good, wrong_edge(good[0], rng)])
    assert found.dropped.tolist() == [False, False, False, True]
    assert not found.bridges.any()


def test_derivatives_are_those_of_the_errors() -> None:
    graph = measured(10, known_graph(10, 0, 0.0, 0.1).edges)
    places = sim3.exponential(np.random.default_rng(0).normal(scale=0.3, size=(10, 7)))
    first, second = graph.derivatives(graph.errors(places))
    step = 1e-6
    for column in range(7):
        d = np.zeros((10, 7))
        d[::2, column] = step  # every edge has one even node
        ahead = graph.errors(places @ sim3.exponential(d))
        back = graph.errors(places @ sim3.exponential(-d))
        even = np.where((graph.first % 2 == 0)[:, None], first[:, :, column], second[:, :, column])
        np.testing.assert_allclose((ahead - back) / (2 * step), even, rtol=1e-4, atol=1e-5)


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse.csgraph", None)
    with pytest.raises(CovisError, match=r"covis\[collection\]") as caught:
        place(1, [])
    assert caught.value.code == ExitCode.ENVIRONMENT
