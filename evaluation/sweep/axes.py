"""Axes of a sweep: the options of `covis sweep` that decide which settings are run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from covis.engines.errors import user_error
from covis.engines.options import Selector

PairSource = Literal["saliency", "random", "oracle"]
PAIR_SOURCES: tuple[PairSource, ...] = get_args(PairSource)


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
    """

    taus: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95)
    selectors: tuple[Selector, ...] = ("saliency", "pooled")
    keep_ratios: tuple[float, ...] = (0.5, 0.25, 0.1)
    layers: tuple[str, ...] = ("third", "two-thirds", "all")
    shares: tuple[float, ...] = (0.5, 0.25, 0.126)
    pairs: tuple[PairSource, ...] = PAIR_SOURCES
    drops: bool = True

    def __post_init__(self) -> None:
        for name, values in (("taus", self.taus), ("keep-ratios", self.keep_ratios)):
            if not all(0.0 <= value <= 1.0 for value in values):
                raise user_error("holds a number outside [0, 1]", where=f"--{name}")
        if not all(0.0 < value <= 1.0 for value in self.shares):
            raise user_error("holds a number outside (0, 1]", where="--shares", hint="e.g. 0.25")
        if not self.layers:
            raise user_error("names no layers", where="--layers", hint='e.g. "all"')
