"""Edges of a pose graph of similarities as arrays, and the errors that placed nodes leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from covis.runtime.collection import sim3
from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.similarity import Similarity

Kind = Literal["cut", "loop"]

# Relative uncertainty of a junction that looks perfect: parts bend a little inside, which the
# shared views cannot show.
MIN_SIGMA = 1e-3


@dataclass(frozen=True)
class Edge:
    """Measured similarity between two nodes.

    Errors are those of the shared points: shifts in units of `radius`, rotations about `centre`.

    Attributes:
        first: A node.
        second: Another node.
        similarity: Maps the world of the second node to that of the first.
        sigma: Relative uncertainty, at the shared points: a share of `radius`, and radians.
        centre: (3,) middle of the shared points in the world of the second node.
        radius: Their root mean square distance from it.
        kind: "cut" between neighbours, "loop" for a closure.
    """

    first: int
    second: int
    similarity: Similarity
    sigma: float = 0.02
    centre: Float64 = field(default_factory=lambda: np.zeros(3))
    radius: float = 1.0
    kind: Kind = "cut"


@dataclass(frozen=True)
class Residuals:
    """Errors of E edges after the nodes are placed.

    Attributes:
        translation: (E,) shift of the shared points, relative to their radius.
        rotation_deg: (E,) rotation in degrees.
        log_scale: (E,) logarithm of the ratio of the scales.
    """

    translation: Float64
    rotation_deg: Float64
    log_scale: Float64


@dataclass(frozen=True)
class Measured:
    """Edges of a graph in nodes of unit size, so that all numbers are of the same order.

    Attributes:
        first: (E,) nodes.
        second: (E,) nodes.
        motion: (E, 4, 4) from the second node to the first.
        frame: (E, 4, 4) from the unit ball of the shared points to the second node.
        sigma: (E,) relative uncertainty, at least `MIN_SIGMA`.
        loop: (E,) True for a loop closure.
        unit: (P, 4, 4) from a node of unit size to the world that the caller knows.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    motion: Float64
    frame: Float64
    sigma: Float64
    loop: NDArray[np.bool_]
    unit: Float64

    @cached_property
    def back(self) -> Float64:
        """Motions (E, 4, 4) from the first node to the second."""
        return sim3.invert(self.motion)

    def errors(self, places: Float64) -> Float64:
        """Return the errors (E, 7) of placed nodes (P, 4, 4): tangent vectors in the unit ball."""
        found = sim3.invert(places[self.first]) @ places[self.second] @ self.frame
        return sim3.logarithm(sim3.invert(self.motion @ self.frame) @ found)

    def derivatives(self, errors: Float64) -> tuple[Float64, Float64]:
        """Return the derivatives (E, 7, 7) of these errors by a step S exp(x) of either node."""
        back = sim3.adjoint(sim3.invert(self.motion @ self.frame))
        ahead = sim3.adjoint(sim3.invert(self.frame))
        first = -np.linalg.inv(sim3.left_jacobian(errors)) @ back
        return first, np.linalg.inv(sim3.left_jacobian(-errors)) @ ahead

    def sizes(self, errors: Float64) -> Float64:
        """Return the size (E,) of errors in sigmas, for each of the seven numbers."""
        norm: Float64 = np.linalg.norm(errors, axis=-1) / (np.sqrt(7) * self.sigma)
        return norm


def measured(parts: int, edges: Sequence[Edge]) -> Measured:
    """Collect the edges, and scale every node by the points that its edges see in it."""
    first = np.array([edge.first for edge in edges], np.int64)
    second = np.array([edge.second for edge in edges], np.int64)
    motion = sim3.matrices([edge.similarity for edge in edges])
    frame = sim3.matrices([Similarity(e.radius, np.eye(3), e.centre) for e in edges])
    unit = np.tile(np.eye(4), (parts, 1, 1))
    nodes = np.concatenate([second, first])
    seen = np.concatenate([frame, motion @ frame])
    sizes = np.cbrt(np.linalg.det(seen[:, :3, :3])) if len(edges) else np.zeros(0)
    for node in np.unique(nodes):
        own = nodes == node
        unit[node, :3, :3] *= np.exp(np.log(sizes[own]).mean())
        unit[node, :3, 3] = seen[own, :3, 3].mean(axis=0)
    return Measured(
        first,
        second,
        sim3.invert(unit[first]) @ motion @ unit[second],
        sim3.invert(unit[second]) @ frame,
        np.maximum(np.array([edge.sigma for edge in edges], np.float64), MIN_SIGMA),
        np.array([edge.kind == "loop" for edge in edges], np.bool_),
        unit,
    )


def residuals(errors: Float64) -> Residuals:
    """Return tangent vectors (E, 7) as numbers for a report."""
    return Residuals(
        np.linalg.norm(errors[:, :3], axis=-1),
        np.degrees(np.linalg.norm(errors[:, 3:6], axis=-1)),
        errors[:, 6].copy(),
    )


def components(graph: Measured, edges: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the number (P,) of each node's component, counted by its lowest node."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    nodes = len(graph.unit)
    pairs = graph.first[edges], graph.second[edges]
    links = csr_array((np.ones(len(pairs[0])), pairs), shape=(nodes, nodes))
    labels = connected_components(links, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
