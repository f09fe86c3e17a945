"""Settings of a sweep: every point that its axes name, with a name and a table of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from covis.engines.layers import parse_layers
from covis.engines.options import Sparsity, schedule_selector
from covis.engines.regime import parse_schedule
from covis.engines.schedule import GOTOHUNT
from covis.evaluation.sweep.axes import NAMED_SCHEDULES, AnchorSource, PairSource, SweepAxes

Kind = Literal["dense", "tau", "pooled", "pairs", "drop", "anchors", "schedule"]
DROPS = ("front", "back", "middle", "alternating")


@dataclass(frozen=True)
class Setting:
    """One point of a sweep.

    Attributes:
        name: Unique name in the sweep; also the name of its folder.
        kind: Table or curve of the setting.
        sparsity: Selector options.
        bundle: Label of the bundle to run.
        share: Share of the pairs to keep, chosen by `pairs` instead of a threshold.
        pairs: Score that chooses the share: similarity, random numbers or true co-visibility.
        drop: Position of the layers that a layer-drop setting makes sparse.
        choice: Choice of the anchors, where choices are compared.
        schedule: Name or text of the schedule, where schedules are compared.
    """

    name: str
    kind: Kind
    sparsity: Sparsity
    bundle: str = ""
    share: float | None = None
    pairs: PairSource = "saliency"
    drop: str | None = None
    choice: AnchorSource | None = None
    schedule: str | None = None

    def describe(self) -> dict[str, Any]:
        """Return the setting for JSON."""
        return {**asdict(self), "sparsity": asdict(self.sparsity)}


def settings(
    axes: SweepAxes, base: Sparsity, depth: int, bundle: str = "", views: int = 0
) -> list[Setting]:
    """Return the settings of a sweep, the dense one first.

    Args:
        axes: Values to run through.
        base: Source of the options that no axis changes.
        depth: Number of global layers of the model.
        bundle: Label of the bundle, a prefix of the names.
        views: Number of views of each scene; 0 where it is not known.
    """
    dense = replace(
        base,
        selector="dense",
        schedule="",
        layers="default",
        tau_low=None,
        low_precision=False,
    )
    found = [
        Setting("dense", "dense", dense),
        *_thresholds(axes, dense, depth),
        *_pairs(axes, dense, depth),
        *(_drops(axes, dense, depth) if axes.drops and axes.shares else ()),
        *_anchors(axes, dense, axes.anchor_numbers(views)),
        *_schedules(axes, dense, depth, axes.anchor_numbers(views)),
    ]
    prefix = f"{bundle}/" if bundle else ""
    named = {s.name: replace(s, name=prefix + s.name, bundle=bundle) for s in found}
    return list(named.values())


def _thresholds(axes: SweepAxes, dense: Sparsity, depth: int) -> Iterator[Setting]:
    """Yield the taus of saliency and the keep ratios of pooled blocks, in each set of layers."""
    for word in axes.layers:
        layers = layer_words(word, depth)
        for selector in axes.selectors:
            options = replace(dense, selector=selector, layers=layers)
            if selector == "saliency":
                for tau in axes.taus:
                    yield Setting(f"saliency-tau{tau:g}-{layers}", "tau", replace(options, tau=tau))
            else:
                for ratio in axes.keep_ratios:
                    pooled = replace(options, keep_ratio=ratio, cdf=0.0)
                    yield Setting(f"{selector}-keep{ratio:g}-{layers}", "pooled", pooled)


def _pairs(axes: SweepAxes, dense: Sparsity, depth: int) -> Iterator[Setting]:
    for word in axes.layers:
        layers = layer_words(word, depth)
        options = replace(dense, selector="saliency", layers=layers)
        for share in axes.shares:
            for pairs in axes.pairs:
                name = f"{pairs}-share{share:g}-{layers}"
                yield Setting(name, "pairs", options, share=share, pairs=pairs)


def _drops(axes: SweepAxes, dense: Sparsity, depth: int) -> Iterator[Setting]:
    for drop in DROPS:
        for count in sorted({max(1, round(depth * k / 4)) for k in (1, 2, 3)}):
            layers = drop_layers(drop, count, depth)
            options = replace(dense, selector="saliency", layers=layers)
            name = f"drop-{drop}-{count}"
            yield Setting(name, "drop", options, share=axes.shares[-1], drop=drop)


def _anchors(axes: SweepAxes, dense: Sparsity, numbers: tuple[int, ...]) -> Iterator[Setting]:
    """Yield every choice of anchors at every number, under every rule beside the anchors."""
    for own in axes.own_frame:
        for neighbours in axes.min_neighbours or (None,):
            rule = replace(dense, selector="anchors", own_frame=own)
            ending = "" if own else "-no-own-frame"
            if neighbours is not None:
                rule = replace(rule, min_neighbours=neighbours)
                ending += f"-neighbours{neighbours}"
            for choice in axes.anchor_choices:
                for seed in axes.anchor_seeds if choice == "random" else (0,):
                    options = replace(
                        rule,
                        anchor_choice="kcenter" if choice == "oracle" else choice,
                        anchor_seed=seed,
                    )
                    word = f"{choice}{seed}" if choice == "random" else choice
                    for number in numbers:
                        name = f"anchors-{word}-{number}{ending}"
                        budget = replace(options, anchors=number)
                        yield Setting(name, "anchors", budget, choice=choice)


def _schedules(
    axes: SweepAxes, dense: Sparsity, depth: int, numbers: tuple[int, ...]
) -> Iterator[Setting]:
    if not numbers:
        return
    number = min(numbers, key=lambda n: abs(n - dense.anchors))
    for text in axes.schedules:
        options = scheduled(replace(dense, anchors=number), text, depth)
        yield Setting(f"schedule-{_file_name(text)}", "schedule", options, schedule=text)


def scheduled(sparsity: Sparsity, text: str, depth: int) -> Sparsity:
    """Return the options with a schedule, given as its text or as one of the names."""
    if text == "light":
        return replace(sparsity, selector="light")
    if text == "all":
        return replace(sparsity, selector="anchors", layers="all")
    if text == "gotohunt":
        return GOTOHUNT.apply(sparsity)
    if text == "default":
        return replace(sparsity, selector="anchors")
    selector = schedule_selector(parse_schedule(text, depth))
    return replace(sparsity, selector=selector, schedule=text)


def _file_name(schedule: str) -> str:
    """Return a name for a schedule's folder: readable, and different for different texts."""
    if schedule in NAMED_SCHEDULES:
        return schedule
    words = re.sub(r"[^A-Za-z0-9.=+]+", "-", schedule)[:80]
    return f"{words}-{hashlib.sha256(schedule.encode()).hexdigest()[:8]}"


def layer_words(word: str, depth: int) -> str:
    """Return `Sparsity.layers` of a word: "third" and "two-thirds" count from the first layer."""
    parts = {"third": 1, "two-thirds": 2}
    if word not in parts:
        parse_layers(word, depth)  # rejects layers that the model does not have
        return word.replace(" ", "")
    return f"0-{max(0, round(depth * parts[word] / 3) - 1)}"


def drop_layers(drop: str, count: int, depth: int) -> str:
    """List `count` layers as text: the first, the last, the middle, or evenly spread ones."""
    if drop == "alternating":
        chosen = np.unique(np.floor((np.arange(count) + 0.5) * depth / count).astype(int))
    else:
        first = {"front": 0, "back": depth - count, "middle": (depth - count) // 2}[drop]
        chosen = np.arange(first, first + count)
    return ",".join(map(str, chosen))
