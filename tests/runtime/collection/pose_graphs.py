"""Pose graphs with known places: parts on a path that passes the same places several times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covis.runtime.collection import sim3
from covis.runtime.collection.pose_edges import Edge, Kind
from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.similarity import Similarity
from tests.evaluation.geometry import rotation

_STEP = 1.0  # distance of neighbouring parts, in radii of the points that two parts share
_ROUND = 30  # parts of a round of the circle on which they lie


@dataclass(frozen=True)
class KnownGraph:
    """Places of the parts, edges, and which edges are wrong."""

    places: tuple[Similarity, ...]
    edges: tuple[Edge, ...]
    wrong: NDArray[np.bool_]


@dataclass(frozen=True)
class PlaceErrors:
    """Errors of P places, seen from the part that lies best in the middle of the others.

    shift is in radii of the shared points, the other two are degrees and |log scale|.
    """

    shift: Float64
    rotation_deg: Float64
    log_scale: Float64


def known_places(parts: int, seed: int) -> tuple[Similarity, ...]:
    """Create parts on rounds of a circle, each in any orientation and of any scale."""
    rng = np.random.default_rng(seed)
    radius = _ROUND * _STEP / (2 * np.pi)
    places = []
    for i in range(parts):
        angle = 2 * np.pi * i / _ROUND
        at = np.array([radius * np.cos(angle), radius * np.sin(angle), 0.0])
        at += rng.normal(scale=0.2, size=3)
        places.append(Similarity(float(np.exp(rng.normal(scale=0.5))), rotation(rng), at))
    return tuple(places)


def edge_between(
    places: tuple[Similarity, ...],
    pair: tuple[int, int],
    sigma: float,
    kind: Kind,
    rng: np.random.Generator,
) -> Edge:
    """Measure the similarity between two parts at points half-way, with noise of `sigma`."""
    first, second = pair
    a, b = places[first], places[second]
    middle = b.inverse().points((a.translation + b.translation) / 2)
    radius = _STEP / b.scale
    frame = sim3.matrices([Similarity(radius, np.eye(3), middle)])
    noise = sim3.exponential(sigma * rng.normal(size=(1, 7)))
    true = sim3.matrices([a.inverse().after(b)])
    found = sim3.similarity((true @ frame @ noise @ sim3.invert(frame))[0])
    return Edge(first, second, found, max(sigma, 1e-3), middle, radius, kind)


def wrong_edge(edge: Edge, rng: np.random.Generator) -> Edge:
    """Return an edge that claims any other similarity, as sure of itself as the right one."""
    scale = float(edge.similarity.scale * np.exp(rng.normal(scale=0.5)))
    other = Similarity(scale, rotation(rng), rng.normal(scale=5 / edge.radius, size=3))
    return Edge(edge.first, edge.second, other, edge.sigma, edge.centre, edge.radius, edge.kind)


def known_graph(
    parts: int, loops: int, wrong: float, sigma: float = 0.01, seed: int = 0
) -> KnownGraph:
    """Create a chain with loop closures between parts that are near, a share of all edges wrong."""
    rng = np.random.default_rng(seed)
    places = known_places(parts, seed)
    at = np.stack([place.translation for place in places])
    near = np.linalg.norm(at[:, None] - at[None], axis=-1) < 2 * _STEP
    pairs = np.argwhere(np.triu(near, 4))
    closures = rng.permutation(pairs)[:loops]
    edges = [edge_between(places, (i, i + 1), sigma, "cut", rng) for i in range(parts - 1)]
    edges += [edge_between(places, (int(i), int(j)), sigma, "loop", rng) for i, j in closures]
    bad = np.zeros(len(edges), np.bool_)
    bad[rng.permutation(len(edges))[: round(wrong * len(edges))]] = True
    return KnownGraph(
        places,
        tuple(wrong_edge(e, rng) if b else e for e, b in zip(edges, bad, strict=True)),
        bad,
    )


def place_errors(found: tuple[Similarity, ...], true: tuple[Similarity, ...]) -> PlaceErrors:
    """Compare places in the world of the part from which most others look right."""
    theirs = np.stack([place.translation for place in true])
    motions = [t.after(f.inverse()) for f, t in zip(found, true, strict=True)]
    ours = np.stack([place.translation for place in found])
    shifts = [np.linalg.norm(motion.points(ours) - theirs, axis=-1) for motion in motions]
    best = int(np.argmin([np.median(shift) for shift in shifts]))
    rest = [t.inverse().after(motions[best].after(f)) for f, t in zip(found, true, strict=True)]
    tangent = sim3.logarithm(sim3.matrices(rest))
    rotation_deg = np.degrees(np.linalg.norm(tangent[:, 3:6], axis=-1))
    return PlaceErrors(shifts[best] / _STEP, rotation_deg, np.abs(tangent[:, 6]))
