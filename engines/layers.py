"""Lists and ranges of global layers, as users write them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from covis.engines.errors import user_error
from covis.engines.limits import TEXT

_RANGE = re.compile("[0-9]{1,4}(-[0-9]{1,4})?")
_PUBLISHED = "0-9"
"""Layers that the first block-sparse publications prune (sparse-vggt, section 4)."""


def parse_layers(text: str, depth: int | None = None) -> tuple[int, ...]:
    """Read layer indices from "0-9", "0,2,4-7", "all", "none" or "default", ascending.

    Indices past `depth` are dropped from ranges, so that "0-9" also fits a small model. A single
    layer that the model does not have is rejected, and so is a list that leaves no layer at all.

    Args:
        text: Ranges and indices; repeats are allowed. "default" is 0 to 9.
        depth: Number of global layers; None checks the syntax alone.

    Raises:
        CovisError: The text is no list of layers, or names a layer that the model does not have.
    """
    if len(text) > TEXT.most:
        raise user_error(
            f"is longer than {TEXT}", where="--layers", hint='write ranges such as "0-9", or "all"'
        )
    words = text.replace(" ", "")
    if words in ("", "none"):
        return ()
    if words == "all":
        return tuple(range(depth)) if depth is not None else ()
    if words == "default":
        words = _PUBLISHED
    chosen: set[int] = set()
    named: set[int] = set()
    for word in words.split(","):
        found = layer_range(word)
        if found is None:
            raise user_error(
                f"{word!r} is no layer or range of layers",
                where="--layers",
                hint='write e.g. "0-9,12" or "all"',
            )
        if "-" not in word:
            named.add(found[0])
        chosen.update(found)
    kept = sorted(i for i in chosen if depth is None or i < depth)
    if not kept:
        raise user_error(
            f"{text!r} names none of the model's {depth} global layers",
            where="--layers",
            hint=f"use 0 to {(depth or 1) - 1}",
        )
    if absent := sorted(named - set(kept)):
        raise user_error(
            f"the model has no global layer {absent[0]}",
            where="--layers",
            hint=f"use 0 to {(depth or 1) - 1}",
        )
    return tuple(kept)


def format_layers(layers: Iterable[int]) -> str:
    """Return ascending layer indices as text that `parse_layers` reads, such as "0-1, 4"."""
    ranges: list[list[int]] = []
    for layer in layers:
        if ranges and layer == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], layer]
        else:
            ranges.append([layer])
    return ", ".join("-".join(map(str, ends)) for ends in ranges)


def layer_range(word: str) -> range | None:
    """Read one index or one rising range such as "4" or "4-7"; None if it is neither."""
    first, dash, last = word.partition("-")
    if not _RANGE.fullmatch(word) or (dash and int(last) < int(first)):
        return None
    return range(int(first), int(last or first) + 1)
