"""Weighted least squares of a pose graph: Levenberg and Marquardt, with scipy's sparse factors.

The normal equations are factorised (SuperLU). scipy's `least_squares` has only an iterative solver
for sparse Jacobians, LSMR, and a chain of parts is so badly conditioned that it crawls.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.runtime.collection import sim3
from covis.runtime.collection.pose_edges import Measured
from covis.runtime.scene.geometry import Float64

# Relative decrease of the cost below which the places are settled.
_SETTLED = 1e-9
_STEPS = 60
_DAMPING = 1e-6
_MOST_DAMPING = 1e8


def solve(
    graph: Measured, start: Float64, weights: Float64, component: NDArray[np.int64]
) -> Float64:
    """Return the places (P, 4, 4) with the least weighted sum of squared errors, in sigmas.

    The unknowns are steps S exp(x) from the last places; the lowest node of each component stays.

    Args:
        graph: Measured edges.
        start: (P, 4, 4) places.
        weights: (E,) weights of the squares, in [0, 1].
        component: (P,) numbers of the components.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import splu

    fixed = np.unique(component, return_index=True)[1]
    free = np.setdiff1d(np.arange(len(start)), fixed)
    used = np.flatnonzero(weights > 0.0)
    if not len(free) or not len(used):
        return start
    root = (np.sqrt(weights) / graph.sigma)[:, None]

    places, damping = start, _DAMPING
    errors = graph.errors(places)
    cost = float(((root * errors) ** 2).sum())
    for _ in range(_STEPS):
        first, second = graph.derivatives(errors)
        jacobian = _sparse(graph, (root[:, :, None] * first, root[:, :, None] * second), free, used)
        normal = (jacobian.T @ jacobian).tocsc()
        slope = jacobian.T @ (root * errors)[used].ravel()
        before = cost
        while damping < _MOST_DAMPING:
            damped = normal + damping * diags_array(normal.diagonal())
            step = splu(damped.tocsc()).solve(-slope).reshape(-1, 7)
            moved = places.copy()
            moved[free] = places[free] @ sim3.exponential(step)
            errors_there = graph.errors(moved)
            cost_there = float(((root * errors_there) ** 2).sum())
            if cost_there <= cost:
                places, errors, cost = moved, errors_there, cost_there
                damping = max(damping / 10, _DAMPING)
                break
            damping *= 10
        if before - cost <= _SETTLED * before:
            break
    return places


def _sparse(
    graph: Measured,
    blocks: tuple[Float64, Float64],
    free: NDArray[np.int64],
    used: NDArray[np.int64],
) -> Any:
    """Return blocks (E, 7, 7) of both nodes as a matrix (7 used, 7 free)."""
    from scipy.sparse import csr_array

    column = np.full(len(graph.unit), -1)
    column[free] = np.arange(len(free))
    rows, columns, values = [], [], []
    for nodes, block in zip((graph.first, graph.second), blocks, strict=True):
        there = np.flatnonzero(column[nodes[used]] >= 0)
        at = column[nodes[used[there]]]
        shape = (len(there), 7, 7)
        down, right = np.arange(7)[:, None], np.arange(7)[None, :]
        rows.append(np.broadcast_to(7 * there[:, None, None] + down, shape).ravel())
        columns.append(np.broadcast_to(7 * at[:, None, None] + right, shape).ravel())
        values.append(block[used[there]].ravel())
    return csr_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(7 * len(used), 7 * len(free)),
    )
