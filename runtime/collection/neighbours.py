"""Graph of co-visibility: the most similar other views of each view, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import environment_error

Descriptors = NDArray[np.float32]
Indices = NDArray[np.int64]

NEIGHBOURS: Final = 16
_BLOCK: Final = 4_000_000  # similarities in memory at once
# Dot products of float32 are exact to about this; what differs by less counts as equal.
_EXACT: Final = 2.0**-20


def sparse() -> Any:
    """Import `scipy.sparse`, with its graph and eigenvalue routines.

    Raises:
        CovisError: SciPy is not installed (exit code 3).
    """
    try:
        import scipy.sparse
        import scipy.sparse.csgraph
        import scipy.sparse.linalg
    except ImportError as error:
        raise environment_error(
            "SciPy is not installed, and a collection is divided with it",
            hint="pip install 'covis[collection]'",
        ) from error
    return scipy.sparse


def between(descriptors: Descriptors, first: Indices, second: Indices) -> NDArray[np.float32]:
    """Return the cosine similarities (a, b) of some views with others.

    Args:
        descriptors: (n, C) unit descriptors of the views.
        first: (a,) indices of views.
        second: (b,) indices of views.
    """
    similar: NDArray[np.float32] = descriptors[first] @ descriptors[second].T
    return similar


def blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of blocks of rows whose similarities with all columns fit in memory."""
    length = max(1, _BLOCK // max(columns, 1))
    for start in range(0, rows, length):
        yield start, min(start + length, rows)


def distance(similarity: NDArray[Any]) -> NDArray[np.float64]:
    """Return the Euclidean distance of unit descriptors with a cosine similarity.

    Distances, unlike cosines, grow in proportion to the steps of a camera that moves evenly, so
    that ratios of them mean the same for every model. Below the rounding of a cosine they are 0.
    """
    squared = 2.0 - 2.0 * np.asarray(similarity, np.float64)
    found: NDArray[np.float64] = np.sqrt(np.where(squared < 2 * _EXACT, 0.0, squared))
    return found


def nearest(descriptors: Descriptors, k: int = NEIGHBOURS) -> Any:
    """Return the graph of each view's most similar other views.

    Of views that are equally similar, the nearer ones in order come first. Copies of one photo
    thereby form a chain, and not stars around its first copies.

    Args:
        descriptors: (n, C) unit descriptors.
        k: Number of neighbours of a view; all others where there are fewer.

    Returns:
        `scipy.sparse.csr_array` (n, n) with min(k, n - 1) cosine similarities in each row, the most
        similar first. It is not symmetric.

    Raises:
        CovisError: SciPy is not installed (exit code 3).
    """
    total = len(descriptors)
    k = min(k, total - 1)
    columns = np.empty((total, k), np.int64)
    values = np.empty((total, k), np.float32)
    order = np.arange(total)
    for start, stop in blocks(total, total):
        similar = descriptors[start:stop] @ descriptors.T
        rank = similar.astype(np.float64)
        rank *= 1 / _EXACT
        np.rint(rank, out=rank)
        rank -= np.abs(order[start:stop, None] - order) / total
        rank[np.arange(stop - start), order[start:stop]] = -np.inf
        best = np.argpartition(-rank, max(k - 1, 0), axis=1)[:, :k]
        by_rank = np.argsort(-np.take_along_axis(rank, best, axis=1), axis=1, kind="stable")
        columns[start:stop] = np.take_along_axis(best, by_rank, axis=1)
        values[start:stop] = np.take_along_axis(similar, columns[start:stop], axis=1)
    starts = np.arange(total + 1) * k
    return sparse().csr_array((values.ravel(), columns.ravel(), starts), shape=(total, total))
