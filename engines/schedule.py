"""Regime of each global layer: by the selector, by the number of views, or by a schedule.

Sources: GoToHunt (arXiv 2605.23892) for VGGT's and pi^3's layers, the number of anchors, and
farthest-first traversal; SAF3R (arXiv 2607.03612) for the number of views below which sparse
attention loses accuracy at strict thresholds. docs/how-to/choose-sparsity.md has the figures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from covis.engines.layers import parse_layers
from covis.engines.options import Sparsity, SparsityChanges
from covis.engines.regime import Regime, parse_schedule

_PUBLISHED_DEPTH: Final = 24
_SELF_END: Final = 2  # layers 0 and 1 of 24: attention is uniform there, a frame alone is enough
_EARLY_END: Final = 9  # layers 2 to 8 of 24: as plain frame attention they cost 0.35 of AUC@5
_EARLY_SHARE: Final = 0.4
"""Share of the anchors in the early layers: 10 of 25.

The published schedule takes every third patch of all 25 anchors in both directions there, the work
of 2.8 anchors. A stride of keys is no region of the op, so fewer anchors take its place.
"""


GOTOHUNT: Final = SparsityChanges(selector="anchors", own_frame=False, min_neighbours=0)
"""Published rule: the default schedule with one list of keys for all views."""


def resolve(sparsity: Sparsity, views: int) -> Sparsity:
    """Return the options with the selector that `auto` chooses for this number of views."""
    if sparsity.selector != "auto":
        return sparsity
    if views <= sparsity.dense_up_to:
        return replace(sparsity, selector="dense")
    return replace(sparsity, selector="light" if views <= sparsity.light_up_to else "anchors")


def reason(sparsity: Sparsity, views: int) -> str:
    """Return why `auto` chooses the regime of so many views; "" for another selector."""
    if sparsity.selector != "auto":
        return ""
    if views <= sparsity.dense_up_to:
        return f"up to {sparsity.dense_up_to} views nothing is left out"
    if views <= sparsity.light_up_to:
        return f"more than {sparsity.dense_up_to} views, up to {sparsity.light_up_to}"
    return f"more than {sparsity.light_up_to} views"


def layer_regimes(sparsity: Sparsity, depth: int) -> tuple[Regime, ...]:
    """Return the regime of each of `depth` global layers, with every number filled in.

    Args:
        sparsity: Options with a selector other than `auto`, see `resolve`.
        depth: Number of global layers L.

    Raises:
        CovisError: The schedule or the layers do not fit the model.
    """
    assert sparsity.selector != "auto", "resolve the options first"
    return tuple(_filled(regime, sparsity) for regime in _regimes(sparsity, depth))


def check_schedule(sparsity: Sparsity, depth: int) -> None:
    """Reject a schedule or layers that do not fit a model of `depth` global layers.

    Raises:
        CovisError: Naming the layer.
    """
    parse_layers(sparsity.layers, depth)
    if sparsity.schedule:
        parse_schedule(sparsity.schedule, depth)


def is_pooled(sparsity: Sparsity, depth: int) -> bool:
    """Return whether a layer selects pooled blocks, so that the run needs that aggregator."""
    if sparsity.selector == "auto":
        return False  # none of its regimes is pooled
    return any(regime.pooled for regime in layer_regimes(sparsity, depth))


def _regimes(sparsity: Sparsity, depth: int) -> tuple[Regime, ...]:
    selector = sparsity.selector
    if selector == "dense":
        return (Regime(),) * depth
    if sparsity.schedule:
        return parse_schedule(sparsity.schedule, depth)
    if selector in ("anchors", "light") and sparsity.layers == "default":
        return default_schedule(depth, sparsity.anchors, light=selector == "light")
    sparse = {
        "light": Regime("anchors"),
        "anchors": Regime("anchors"),
        "saliency": Regime("saliency"),
        "pooled": Regime(pooled=True),
        "both": Regime("saliency", pooled=True),
    }[selector]
    chosen = parse_layers(sparsity.layers, depth)
    return tuple(sparse if layer in chosen else Regime() for layer in range(depth))


def default_schedule(depth: int, anchors: int, *, light: bool = False) -> tuple[Regime, ...]:
    """Return the published schedule, scaled from VGGT's 24 global layers to `depth`.

    The first twelfth of the layers attends within frames, those up to three eighths to few anchors,
    and the others to all anchors or, with `light`, densely.
    """
    first = round(depth * _SELF_END / _PUBLISHED_DEPTH)
    early = round(depth * _EARLY_END / _PUBLISHED_DEPTH)
    few = Regime("anchors", anchors=max(1, round(_EARLY_SHARE * anchors)))
    late = Regime() if light else Regime("anchors", anchors=anchors)
    return (Regime("self"),) * first + (few,) * (early - first) + (late,) * (depth - early)


def _filled(regime: Regime, sparsity: Sparsity) -> Regime:
    """Return the regime with the run's numbers in the place of those that it leaves open."""
    if regime.kind == "saliency" and regime.tau is None:
        regime = replace(regime, tau=sparsity.tau)
    if regime.kind == "anchors" and regime.anchors is None:
        regime = replace(regime, anchors=sparsity.anchors)
    if regime.pooled and regime.keep_ratio is None:
        regime = replace(regime, keep_ratio=sparsity.keep_ratio)
    return regime
