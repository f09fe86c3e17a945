"""Names of the stages and tensors of a bundle that covis itself reads or writes.

All other names belong to the models and are only passed on from stage to stage.
"""

from __future__ import annotations

from typing import Final

IMAGES: Final = "images"
"""Photos (N, 3, H, W), float32 in [0, 1]: the only input of a bundle that comes from files."""

SIMILARITY: Final = "similarity"
"""Cosine similarity (M, M) of the views' descriptors."""

ANCHOR_ORDER: Final = "anchor_order"
"""Views (M,) to take as anchors, in order; -1 takes the farthest view."""

ANCHOR_RANK: Final = "anchor_rank"
"""Rank of each view among the anchors (M,), from 0; M for a view that is no anchor."""

PAIR_LEVELS: Final = "pair_levels"
"""Maps of view pairs (R, M, M), one for each regime of the schedule: 0 skipped, 1 low precision
allowed, 2 full precision.

The stage that writes them is the one whose result a caller's map replaces.
"""

TAU: Final = "tau"
"""Similarity (R,) from which a pair of views is computed in full, in each map."""

LAYER_MAP: Final = "layer_map"
"""Index (L,) of the map of each global layer."""

PROBE: Final = "probe"
"""Indices (K,) of the queries on which the kept attention mass is measured."""

KEPT_BLOCKS: Final = "kept_blocks"
"""Share of the blocks computed (layers, heads), from the pooled selector."""

KEPT_MASS: Final = "kept_mass"
"""Share of dense attention's mass on the blocks computed (layers, heads)."""

AGGREGATOR: Final = "aggregator"
"""Stage of the alternating attention, where no layer selects pooled blocks."""

AGGREGATOR_POOLED: Final = "aggregator_pooled"
"""Stage in the place of `aggregator`, where a layer selects pooled blocks."""


def role(stage: str) -> str:
    """Return the role of a stage by its name: the two aggregators have the same."""
    return AGGREGATOR if stage == AGGREGATOR_POOLED else stage
