"""Settings of a benchmark by name: selectors, regimes, schedules, and published schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, get_args

from covis.engines.errors import CovisError, user_error
from covis.engines.options import Selector, Sparsity, SparsityChanges, schedule_selector
from covis.engines.regime import Regime, parse_regime
from covis.engines.schedule import GOTOHUNT

PUBLISHED: Final[Mapping[str, Sparsity]] = {
    "gotohunt": GOTOHUNT.apply(Sparsity(anchors=25)),
    "sparse-vggt": Sparsity(selector="pooled", keep_ratio=0.25, layers="default"),
}
"""Published schedules.

`gotohunt` (arXiv 2605.23892): own frame in layers 0-1 of 24, few anchors in 2-8, 25 anchors in
9-23, one list of keys for all views; where the publication takes every third patch of 25 anchors in
2-8, the default schedule takes 10 anchors. `sparse-vggt`: pooled blocks in layers 0-9.
"""


def named_setting(word: str, base: Sparsity) -> Sparsity:
    """Return the selector options of a setting.

    Args:
        word: Name of a published schedule, a selector, a regime such as `anchors=10`, whose number
            replaces that of `base`, or a schedule such as `0-1:self, rest:anchors=10`.
        base: Options that the word does not name. Published schedules ignore them.

    Raises:
        CovisError: The word is none of these.
    """
    if word in PUBLISHED:
        return PUBLISHED[word]
    for selector in get_args(Selector):
        if word == selector:
            return SparsityChanges(selector=selector).apply(base)
    if ":" in word:
        return SparsityChanges(schedule=word).apply(base)
    try:
        regime = parse_regime(word)
    except CovisError as error:
        raise user_error(
            f"{word!r} names no setting",
            where="setting",
            hint=f"give {', '.join(PUBLISHED)}, a selector, a regime such as anchors=10, or a "
            "schedule",
        ) from error
    return _changes(regime).apply(base)


def _changes(regime: Regime) -> SparsityChanges:
    if regime.kind == "self" or (regime.kind == "anchors" and regime.pooled):
        return SparsityChanges(schedule=f"all:{regime}")
    return SparsityChanges(
        selector=schedule_selector((regime,)),
        tau=regime.tau,
        anchors=regime.anchors,
        keep_ratio=regime.keep_ratio,
    )
