"""Orders of a frame's patches in the sequence: raster, or along a generalised Hilbert curve.

The pooled selector averages runs of 64 and 128 patches. In raster order a run is a stripe across
the image. Along a Hilbert curve it is a compact region, whose mean represents its patches better.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from covis.engines.errors import user_error

ORDERS = ("raster", "hilbert")
_Vector = tuple[int, int]


def patch_order(kind: str, rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the raster index (row * columns + column) of every patch, in that order.

    Args:
        kind: "raster" (rows from the top) or "hilbert" (generalised Hilbert curve).
        rows: Rows of patches, at least 1.
        columns: Columns of patches, at least 1.

    Returns:
        int64 (rows * columns,), a permutation: tokens in the order are `tokens[patch_order(...)]`.

    Raises:
        CovisError: the kind is unknown, or a size is below 1.
    """
    if kind not in ORDERS:
        raise user_error(f"is {kind!r}", where="order", hint=f"give one of {', '.join(ORDERS)}")
    for name, size in (("rows", rows), ("columns", columns)):
        if size < 1:
            raise user_error(f"is {size}", where=name, hint="give 1 or more")
    if kind == "raster":
        return np.arange(rows * columns, dtype=np.int64)
    across, down = (columns, 0), (0, rows)
    cells = _walk((0, 0), across, down) if columns >= rows else _walk((0, 0), down, across)
    return np.fromiter((y * columns + x for x, y in cells), np.int64, rows * columns)


def inverse(order: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Invert a permutation: `tokens[order][inverse(order)]` is `tokens`."""
    result = np.empty_like(order)
    result[order] = np.arange(order.size)
    return result


def _walk(start: _Vector, along: _Vector, across: _Vector) -> Iterator[_Vector]:
    """Visit each cell (x, y) of a rectangle once, from `start` to the far end of `along`.

    `along` and `across` are the rectangle's sides as axis-parallel vectors. The Hilbert curve's
    own rule, for any sides: go up one half, along the far side, and down the other half - three
    rectangles, the outer two walked with the sides exchanged. A rectangle longer than 3:2 is first
    cut in two along its length. Halves have even length where possible, because only a walk along
    an even side ends where the next one can begin without a diagonal step.
    """
    length, width = _size(along), _size(across)
    step, rise = _unit(along), _unit(across)
    if width == 1 or length == 1:
        direction, count = (step, length) if width == 1 else (rise, width)
        for i in range(count):
            yield _add(start, direction, i)
        return
    half, half_width = _half(along), _half(across)
    if 2 * length > 3 * width:
        if _size(half) % 2 and length > 2:
            half = _add(half, step)
        yield from _walk(start, half, across)
        yield from _walk(_add(start, half), _add(along, half, -1), across)
        return
    if _size(half_width) % 2 and width > 2:
        half_width = _add(half_width, rise)
    rest, rest_width = _add(along, half, -1), _add(across, half_width, -1)
    yield from _walk(start, half_width, half)
    yield from _walk(_add(start, half_width), along, rest_width)
    # The last part begins at the end of `along`, just below the middle one, and comes down.
    corner = _add(_add(start, _add(along, step, -1)), _add(half_width, rise, -1))
    yield from _walk(corner, _add((0, 0), half_width, -1), _add((0, 0), rest, -1))


def _add(a: _Vector, b: _Vector, times: int = 1) -> _Vector:
    return a[0] + times * b[0], a[1] + times * b[1]


def _half(side: _Vector) -> _Vector:
    """Halve a side, rounding coordinates (not the length) down: the curve's usual convention."""
    return side[0] // 2, side[1] // 2


def _size(side: _Vector) -> int:
    return abs(side[0] + side[1])


def _unit(side: _Vector) -> _Vector:
    return (side[0] > 0) - (side[0] < 0), (side[1] > 0) - (side[1] < 0)
