"""Settings of the accuracy benchmark: what global attention computes in each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from covis.engines.options import Sparsity
from covis.engines.schedule import GOTOHUNT
from covis.evaluation.sweep.axes import PairSource
from covis.evaluation.sweep.settings import scheduled

DENSE = Sparsity(selector="dense")
# The pairs of a fixed count are given from outside, so that options of saliency have no effect.
_PAIRS = Sparsity(selector="saliency", layers="all", min_neighbours=0)

SHARES = (0.5, 0.25, 0.125)
SEEDS = (0, 1)
LOWEST = SHARES[-1]
"""Share of the pairs in the comparisons by layer."""


@dataclass(frozen=True)
class Setting:
    """One way to run the model, or a baseline.

    Attributes:
        name: Name in the tables, unique in its part.
        sparsity: Selector options.
        pairs: Score that chooses the pairs of the saliency layers; None: their own threshold.
        share: Share of all ordered pairs that `pairs` chooses.
        seed: Seed of random pairs.
        covering: Take the anchors that see the most of what all views see, from the true depth.
        low: Compute the pairs that would be skipped in FP8.
        half: Run the whole model in float16.
        model: `whole`; `alone`: each view as a sequence of its own; `identity`, `mean pose`:
            cameras that ignore the images; `attention`: statistics of dense attention.
    """

    name: str
    sparsity: Sparsity = DENSE
    pairs: PairSource | None = None
    share: float = 1.0
    seed: int = 0
    covering: bool = False
    low: bool = False
    half: bool = False
    model: Literal["whole", "alone", "identity", "mean pose", "attention"] = "whole"

    @property
    def key(self) -> str:
        """Digest of everything but the name: equal settings of two parts are measured once."""
        content = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


MINI = Setting("covis-mini")
SELF = Setting("self only", scheduled(DENSE, "all:self", 1))
ESTIMATORS = (
    MINI,
    SELF,
    Setting("each view alone", model="alone"),
    Setting("mean pose", model="mean pose"),
    Setting("identity", model="identity"),
)
ATTENTION = Setting("attention", model="attention")

CHOICES = {
    "anchors, k-center": ("kcenter",),
    "anchors, uniform": ("uniform",),
    "anchors, random": tuple(f"random-anchors{seed}" for seed in SEEDS),
    "anchors, oracle": ("covering",),
    "pairs, saliency": ("saliency",),
    "pairs, random": tuple(f"random{seed}" for seed in SEEDS),
    "pairs, oracle": ("oracle",),
    "pairs and view 0, saliency": ("saliency-reference",),
    "pairs and view 0, random": tuple(f"random-reference{seed}" for seed in SEEDS),
    "pairs and view 0, oracle": ("oracle-reference",),
}
"""Rows of the tables of choices, each the mean over its settings."""


def anchors_for(share: float, views: int) -> int:
    """Return the number of anchors whose pairs are at most a share of all, at least 1.

    With A anchors every view attends to them and to itself: M A + M - A ordered pairs.
    """
    return max(1, int((share * views**2 - views) // (views - 1)))


def anchor_pairs(anchors: int, views: int) -> int:
    """Return the number of ordered pairs that A anchors of M views compute."""
    return views * anchors + views - anchors


def choices(views: int) -> list[Setting]:
    """Return every choice at every share, in all layers; names end in the share that was asked.

    Pairs are as many as those of the anchors (one fewer where that is odd). Own views are always
    computed. The pairs of view 0 are so with anchors, of which it is the first, and where the name
    says `reference`; such settings are left out where these pairs alone are more.
    """
    found = [MINI, SELF]
    for share in SHARES:
        anchors = anchors_for(share, views)
        count = anchor_pairs(anchors, views)
        for setting in (*_anchors(anchors), *_pairs(count, views)):
            found.append(replace(setting, name=at(setting.name, share)))
    return found


def at(name: str, share: float) -> str:
    """Return the name of a choice at a share."""
    return f"{name} at {share:g}"


def _anchors(number: int) -> Iterator[Setting]:
    base = Sparsity(selector="anchors", layers="all", anchors=number, min_neighbours=0)
    yield Setting("kcenter", base)
    yield Setting("uniform", replace(base, anchor_choice="uniform"))
    for seed in SEEDS:
        chosen = replace(base, anchor_choice="random", anchor_seed=seed)
        yield Setting(f"random-anchors{seed}", chosen)
    yield Setting("covering", base, covering=True)


def _pairs(count: int, views: int) -> Iterator[Setting]:
    share = count / views**2
    for reference in (False, True):
        if reference and count < 3 * views:  # own pairs and those of view 0 are 3 M - 2
            return
        ending = "-reference" if reference else ""
        sparsity = replace(_PAIRS, reference=reference)
        yield Setting(f"saliency{ending}", sparsity, "saliency", share)
        for seed in SEEDS:
            yield Setting(f"random{ending}{seed}", sparsity, "random", share, seed=seed)
        yield Setting(f"oracle{ending}", sparsity, "oracle", share)


def options(depth: int, anchors: int) -> list[Setting]:
    """Return what a user can choose: thresholds, pooled blocks, and schedules.

    Args:
        depth: Number of global layers.
        anchors: Number of anchors of the schedules.
    """
    saliency = Sparsity(selector="saliency", layers="all")
    pooled = Sparsity(selector="pooled", layers="all")
    anchored = Sparsity(selector="anchors", anchors=anchors)
    return [
        MINI,
        *(Setting(f"saliency, tau {t:g}", replace(saliency, tau=t)) for t in TAUS),
        *(Setting(f"pooled, {r:.1%} of the blocks", replace(pooled, keep_ratio=r)) for r in RATIOS),
        Setting(f"light, {anchors} anchors", replace(anchored, selector="light")),
        Setting(f"anchors, {anchors} anchors", anchored),
        Setting(f"anchors, {anchors} anchors, published rule", GOTOHUNT.apply(anchored)),
        Setting(f"anchors, {anchors} anchors in every layer", replace(anchored, layers="all")),
    ]


TAUS = (0.9, 0.98, 0.99, 0.995, 0.998)
"""Thresholds: cosines of covis-mini's tokens lie between 0.97 and 1."""
RATIOS = (0.5, 0.25, 0.125)

LAYER_CURVES = ("alone", "first", "last")
"""Layers that leave out pairs: layer l alone; layers 0 to l; layers l to the last."""


def layers(depth: int) -> list[Setting]:
    """Return dense, and each layer-drop setting: own view alone, or the most similar pairs."""
    found = [MINI]
    for curve in LAYER_CURVES:
        for layer in range(depth):
            chosen = dropped(curve, layer, depth)
            rest = "" if len(chosen) == depth else ", rest:dense"
            words = ", ".join(f"{i}:self" for i in chosen) + rest
            found.append(Setting(f"self {curve} {layer}", scheduled(DENSE, words, depth)))
            listed = ",".join(map(str, chosen))
            sparse = replace(_PAIRS, layers=listed, reference=False)
            found.append(Setting(f"sparse {curve} {layer}", sparse, "saliency", LOWEST))
    return found


def dropped(curve: str, layer: int, depth: int) -> Sequence[int]:
    """Return the layers that a setting of a curve makes sparse."""
    return {
        "alone": range(layer, layer + 1),
        "first": range(layer + 1),
        "last": range(layer, depth),
    }[curve]


def precisions() -> list[Setting]:
    """Return the precisions, all layers alike: whole model, all pairs, other pairs, no pairs.

    The pairs that stay in full precision are each view's own and the most similar ones.
    """
    own = replace(_PAIRS, reference=False)
    found = [
        replace(MINI, name="fp32"),
        Setting("fp16", half=True),
        # Without any pair in full precision: everything is level 1.
        Setting("fp8", _PAIRS, "saliency", 0.0, low=True),
    ]
    for share in SHARES:
        found.append(Setting(f"regime 2, {share:.1%}", own, "saliency", share, low=True))
        found.append(Setting(f"skip, {share:.1%}", own, "saliency", share))
    return found
