"""Axes of a sweep: the options of `covis sweep` that decide which settings are run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from covis.engines.errors import user_error
from covis.engines.limits import VIEWS
from covis.engines.regime import parse_schedule

SweptSelector = Literal["saliency", "pooled", "both"]
PairSource = Literal["saliency", "random", "oracle"]
PAIR_SOURCES: tuple[PairSource, ...] = get_args(PairSource)
AnchorSource = Literal["kcenter", "uniform", "random", "similar", "oracle"]
ANCHOR_SOURCES: tuple[AnchorSource, ...] = get_args(AnchorSource)
NAMED_SCHEDULES: Final = ("default", "light", "all", "gotohunt")
_FEW: Final = 3  # numbers of anchors: with fewer there is no curve


@dataclass(frozen=True)
class SweepAxes:
    """Values that a sweep runs through; every field is one axis.

    Attributes:
        taus: Thresholds of the saliency selector to try, each from 0 to 1.
        selectors: Selectors to try: `saliency` with each of the taus, `pooled` and `both` with
            each of the keep ratios.
        keep_ratios: Keep ratios of the pooled selectors to try, each from 0 to 1.
        layers: Sets of global layers to make sparse: ranges, "third" or "two-thirds" of the
            layers, counted from the first, or "all".
        shares: Shares of view pairs to keep, above 0 and up to 1, when choices of pairs are
            compared at equal cost.
        pairs: Choices of pairs to compare: by similarity (`saliency`), at random, or by true
            co-visibility (`oracle`), which requires a dataset with depth.
        drops: Measure accuracy also as a function of which layers are sparse: from the front, the
            back, the middle, or spread evenly, at the last of the shares.
        anchors: Numbers of anchors to try in the default schedule; those that are not below the
            number of views are left out. No number at all leaves out all settings with anchors.
        anchor_shares: Shares of the views, between 0 and 1, to try as numbers of anchors where
            fewer than three of the numbers are below the number of views.
        anchor_choices: Choices of anchors to compare at each number: `kcenter`, `uniform`,
            `random` and `similar` as by --anchor-choice, and `oracle`, which covers the most of
            the true co-visibility and requires a dataset with depth.
        anchor_seeds: Seeds of the random anchors, each 0 or more.
        own_frame: Values of own-frame to try with each choice of anchors.
        min_neighbours: Numbers of most similar views to try with each choice of anchors.
        schedules: Schedules to compare, at the number of anchors nearest to that of the bundle:
            texts as for `covis run --schedule`, `default`, `light`, `all` (anchors in all layers),
            or `gotohunt` (the default without own frame and neighbours, as published).
    """

    taus: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95)
    selectors: tuple[SweptSelector, ...] = ("saliency", "pooled")
    keep_ratios: tuple[float, ...] = (0.5, 0.25, 0.1)
    layers: tuple[str, ...] = ("third", "all")
    shares: tuple[float, ...] = (0.25, 0.126)
    pairs: tuple[PairSource, ...] = PAIR_SOURCES
    drops: bool = False
    anchors: tuple[int, ...] = (10, 25, 40, 60, 100)
    anchor_shares: tuple[float, ...] = (0.125, 0.25, 0.5)
    anchor_choices: tuple[AnchorSource, ...] = ANCHOR_SOURCES
    anchor_seeds: tuple[int, ...] = (0,)
    own_frame: tuple[bool, ...] = (True,)
    min_neighbours: tuple[int, ...] = ()
    schedules: tuple[str, ...] = NAMED_SCHEDULES

    def __post_init__(self) -> None:
        for name, values in (("taus", self.taus), ("keep-ratios", self.keep_ratios)):
            if not all(0.0 <= value <= 1.0 for value in values):
                raise user_error("holds a number outside [0, 1]", where=f"--{name}")
        for name, values in (("shares", self.shares), ("anchor-shares", self.anchor_shares)):
            if not all(0.0 < value <= 1.0 for value in values):
                raise user_error(
                    "holds a number outside (0, 1]", where=f"--{name}", hint="e.g. 0.25"
                )
        for name, least, counts in (
            ("anchors", 1, self.anchors),
            ("min-neighbours", 0, self.min_neighbours),
            ("anchor-seeds", 0, self.anchor_seeds),
        ):
            if not all(least <= count <= VIEWS.most for count in counts):
                raise user_error(f"holds a number outside [{least}, {VIEWS}]", where=f"--{name}")
        if not self.layers:
            raise user_error("names no layers", where="--layers", hint='e.g. "all"')
        for text in self.schedules:
            if text not in NAMED_SCHEDULES:
                parse_schedule(text)

    def anchor_numbers(self, views: int) -> tuple[int, ...]:
        """Return the numbers of anchors to try with so many views, ascending; 0: not known."""
        if not views or not self.anchors:
            return tuple(sorted(set(self.anchors)))
        numbers = {number for number in self.anchors if number < views}
        if len(numbers) < _FEW:
            numbers |= {max(1, round(share * views)) for share in self.anchor_shares}
        return tuple(sorted(number for number in numbers if number < views))
