"""Maps with a fixed number of view pairs, from any score, to compare choices at equal cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error


def pair_map(score: NDArray[Any], share: float, *, reference: bool = True) -> NDArray[np.int8]:
    """Select the pairs of highest score, up to a share of all ordered pairs.

    Self-pairs and, with `reference`, the pairs of view 0 are always selected, as by saliency, and
    count; with a share below theirs, only they are selected. The other pairs are selected in both
    orders, by the mean of their two scores; of equal scores the first in row order wins. Any two
    scores therefore select the same number of pairs.

    Args:
        score: (M, M) scores of any scale.
        share: Share of the M^2 ordered pairs, in (0, 1].
        reference: Select all pairs of view 0.

    Returns:
        Symmetric map (M, M), int8, of 0 and 2.
    """
    if not 0.0 < share <= 1.0:
        raise user_error(f"{share} is not in (0, 1]", where="share of pairs", hint="e.g. 0.25")
    views = len(score)
    kept = np.eye(views, dtype=bool)
    if reference:
        kept[0] = kept[:, 0] = True
    budget = int(np.floor(share * views * views + 1e-9)) - int(kept.sum())
    mean = (np.asarray(score, np.float64) + np.asarray(score, np.float64).T) / 2
    i, j = np.nonzero(np.triu(~kept, 1))
    order = np.argsort(-mean[i, j], kind="stable")[: max(budget, 0) // 2]
    kept[i[order], j[order]] = kept[j[order], i[order]] = True
    level: NDArray[np.int8] = np.where(kept, 2, 0).astype(np.int8)
    return level


def random_score(views: int, seed: int) -> NDArray[np.float64]:
    """Return random scores (M, M) in [0, 1], the same for the same seed."""
    return np.random.default_rng([seed, views]).random((views, views))
