"""Regimes of global layers, and the schedule that gives each layer its regime.

A schedule is written `0-1:self, 2-8:anchors=10, 9-23:anchors=40+pooled=0.25`. The same text is the
command-line option, the field of the API and the entry of a bundle's manifest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from covis.engines.errors import CovisError, user_error
from covis.engines.layers import format_layers, layer_range
from covis.engines.limits import TEXT, VIEWS

RegimeKind = Literal["dense", "self", "saliency", "anchors"]

_WHERE: Final = "--schedule"
_EXAMPLE: Final = 'write e.g. "0-1:self, 2-8:anchors=10, 9-23:anchors=40"'
_KINDS: Final = (*get_args(RegimeKind), "pooled")
_SHARE: Final = re.compile(r"0(\.[0-9]{1,9})?|1(\.0{1,9})?|\.[0-9]{1,9}")
_COUNT: Final = re.compile("[0-9]{1,7}")


@dataclass(frozen=True)
class Regime:
    """Rule by which one global layer leaves out work.

    Attributes:
        kind: Pairs of views that the layer computes. `dense`: all. `self`: each view with itself
            alone, as frame attention does. `saliency`: pairs whose similarity reaches tau.
            `anchors`: each view with the anchors, with itself and with its most similar views.
        tau: Threshold of `saliency`; None takes that of the run.
        anchors: Number of anchors; None takes that of the run.
        pooled: Keep only the blocks of patches inside these pairs that pooled queries and keys
            select.
        keep_ratio: Share of key blocks that `pooled` keeps; None takes that of the run.
    """

    kind: RegimeKind = "dense"
    tau: float | None = None
    anchors: int | None = None
    pooled: bool = False
    keep_ratio: float | None = None

    def __str__(self) -> str:
        number = {"saliency": self.tau, "anchors": self.anchors}.get(self.kind)
        pairs = _with_number(self.kind, number)
        if not self.pooled:
            return pairs
        blocks = _with_number("pooled", self.keep_ratio)
        return blocks if self.kind == "dense" else f"{pairs}+{blocks}"

    @property
    def is_dense(self) -> bool:
        """True if the layer computes everything."""
        return self.kind == "dense" and not self.pooled


def _with_number(name: str, number: float | None) -> str:
    """Return e.g. `anchors=25`, without an exponent, so that `parse_regime` reads it back."""
    if number is None:
        return name
    return f"{name}={number:.9f}".rstrip("0").rstrip(".")


def parse_regime(text: str) -> Regime:
    """Read one regime, such as `self`, `saliency=0.8`, `anchors=25` or `anchors+pooled=0.25`.

    Raises:
        CovisError: The regime is unknown, or its number is out of range.
    """
    first, *others = text.split("+")
    regime = _part(first, Regime(), text)
    for word in others:
        if regime.pooled or not word.startswith("pooled"):
            raise _fault(f"{text!r} combines more than pairs of views and pooled blocks")
        regime = _part(word, regime, text)
    return regime


def _part(word: str, regime: Regime, text: str) -> Regime:
    name, equals, number = word.partition("=")
    if name not in _KINDS:
        raise _fault(f"{name!r} is no regime", f"use one of {', '.join(_KINDS)}")
    if name in ("dense", "self") and equals:
        raise _fault(f"{name!r} takes no number, but {text!r} has one")
    if name == "pooled":
        share = _share(number, text) if equals else None
        return replace(regime, pooled=True, keep_ratio=share)
    if name == "saliency":
        return Regime("saliency", tau=_share(number, text) if equals else None)
    if name == "anchors":
        return Regime("anchors", anchors=_count(number, text) if equals else None)
    return Regime("dense" if name == "dense" else "self")


def _share(number: str, text: str) -> float:
    if not _SHARE.fullmatch(number):
        raise _fault(f"{number!r} in {text!r} is not in [0, 1]", "give a number from 0 to 1")
    return float(number)


def _count(number: str, text: str) -> int:
    if not _COUNT.fullmatch(number) or not 1 <= int(number) <= VIEWS.most:
        raise _fault(
            f"{number!r} in {text!r} is no number of anchors from 1 to {VIEWS}",
            "for layers without anchors use the regime self",
        )
    return int(number)


def parse_schedule(text: str, depth: int | None = None) -> tuple[Regime, ...]:
    """Read the regime of each global layer.

    Args:
        text: Comma-separated entries `LAYERS:REGIME`. LAYERS is an index, a range such as `2-8`,
            `all`, or `rest` for the layers that no other entry names.
        depth: Number of global layers L; None checks all that does not depend on it.

    Returns:
        L regimes, in the order of the layers; without a depth, one for each entry.

    Raises:
        CovisError: An entry cannot be read, names a layer twice or one that the model does not
            have, or a layer is left out.
    """
    if len(text) > TEXT.most:
        raise _fault(f"is longer than {TEXT}")
    named: dict[int, Regime] = {}
    rest: Regime | None = None
    entries = [entry.split(":") for entry in text.replace(" ", "").split(",")]
    for words in entries:
        if len(words) != 2 or not all(words):
            raise _fault(f"{':'.join(words)!r} is no entry LAYERS:REGIME")
        layers, regime = words[0], parse_regime(words[1])
        if layers == "rest" or (layers == "all" and len(entries) == 1):
            if rest is not None:
                raise _fault(f"{layers!r} is given twice")
            rest = regime
            continue
        found = layer_range(layers)
        if found is None:
            raise _fault(f"{layers!r} is no layer or range of layers")
        for layer in found:
            if layer in named:
                raise _fault(f"names layer {layer} twice", "make the ranges end before the next")
            named[layer] = regime
    if depth is None:
        return tuple(parse_regime(words[1]) for words in entries)
    if beyond := sorted(layer for layer in named if layer >= depth):
        raise _fault(f"the model has no global layer {beyond[0]}", f"use 0 to {depth - 1}")
    missing = [layer for layer in range(depth) if layer not in named]
    if rest is None and missing:
        raise _fault(
            f"leaves out layer {missing[0]} of the model's {depth}",
            f'name 0 to {depth - 1}, or add "rest:dense"',
        )
    return tuple(named.get(layer, rest or Regime()) for layer in range(depth))


def format_schedule(regimes: tuple[Regime, ...]) -> str:
    """Return the text of a schedule, with neighbouring layers of one regime as a range."""
    entries: list[tuple[list[int], Regime]] = []
    for layer, regime in enumerate(regimes):
        if entries and entries[-1][1] == regime:
            entries[-1][0].append(layer)
        else:
            entries.append(([layer], regime))
    return ", ".join(f"{format_layers(layers)}:{regime}" for layers, regime in entries)


def _fault(what: str, hint: str = _EXAMPLE) -> CovisError:
    return user_error(what, where=_WHERE, hint=hint)
