"""Checks of what a caller gives in the place of the selector's own choice: pairs, or anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from covis.engines.errors import user_error
from covis.engines.options import Sparsity
from covis.engines.regime import Regime

Array = NDArray[Any]


def checked_pairs(
    pair_level: Array, views: int, sparsity: Sparsity, regimes: Sequence[Regime]
) -> NDArray[np.int8]:
    """Check a caller's map of view pairs and return it as int8 (M, M).

    Raises:
        CovisError: The map has another shape, other values than 0, 1 and 2 or a self-pair that is
            not 2, or no layer takes a map.
    """
    where = "pair_level"
    kinds = {regime.kind for regime in regimes}
    if "saliency" not in kinds or "anchors" in kinds:
        raise user_error(
            f"is given, and the selector {sparsity.selector!r} takes no pairs",
            where=where,
            hint='use selector="saliency" or "both"',
        )
    level = np.asarray(pair_level)
    if level.shape != (views, views):
        raise user_error(
            f"has shape {level.shape}", where=where, hint=f"give ({views}, {views}) for these views"
        )
    if level.dtype.kind not in "iu" or not np.isin(level, (0, 1, 2)).all():
        raise user_error(
            "holds something else than the integers 0, 1 and 2",
            where=where,
            hint="0 skips a pair, 2 computes it in full; a mask of bools is `2 * mask`",
        )
    if (np.diagonal(level) != 2).any():
        raise user_error(
            "skips a self-pair or lowers its precision",
            where=where,
            hint="set its diagonal to 2: a view always sees itself",
        )
    checked: NDArray[np.int8] = level.astype(np.int8)
    return checked


def checked_anchors(
    anchor_order: ArrayLike, views: int, sparsity: Sparsity, regimes: Sequence[Regime]
) -> NDArray[np.int64]:
    """Check a caller's anchors and return them as the input int64 (M,) of the saliency stage.

    Returns:
        The views to take, in order, followed by -1: the farthest view.

    Raises:
        CovisError: The anchors are no list of different views, or no layer takes anchors.
    """
    where = "anchor_order"
    if all(regime.kind != "anchors" for regime in regimes):
        raise user_error(
            f"is given, and the selector {sparsity.selector!r} takes no anchors",
            where=where,
            hint='use selector="anchors" or "light"',
        )
    if sparsity.anchor_choice == "similar":
        raise user_error(
            "is given, and with anchor_choice 'similar' views share no anchors",
            where=where,
            hint="leave out one of the two",
        )
    chosen = np.asarray(anchor_order)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise user_error(
            "is no list of integers", where=where, hint="give indices of views, such as [0, 4, 8]"
        )
    if ((chosen < 0) | (chosen >= views)).any():
        raise user_error(
            f"names a view outside 0 to {views - 1}", where=where, hint="count the views from 0"
        )
    if len(np.unique(chosen)) < len(chosen):
        raise user_error("names a view twice", where=where, hint="give each view once")
    order = np.full(views, -1, np.int64)
    order[: len(chosen)] = chosen
    return order
