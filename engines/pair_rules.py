"""Rules of the maps of view pairs: a schedule as the numbers that the graphs read.

All regimes are one rule with different numbers, so that the graph computes R maps at once and a run
changes nothing but its inputs. The rule is `covis.export.selection.pair_rules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error
from covis.engines.limits import PAIR_MAPS
from covis.engines.op import keep_ratio_input
from covis.engines.options import Sparsity
from covis.engines.regime import Regime, RegimeKind
from covis.engines.schedule import layer_regimes

_NO_PAIR: Final = 2.0  # threshold above every cosine similarity
_EVERY_PAIR: Final = 0.0  # similarities below 0 count as 0


@dataclass(frozen=True)
class PairRules:
    """Inputs of the graphs that describe R maps of view pairs and their use in L global layers.

    Attributes:
        tau: (R,) float32, similarity from which a pair has level 2.
        tau_low: (R,) float32, similarity from which a pair has level 1.
        anchors: (R,) int64, number of anchors to which every view attends.
        min_neighbours: (R,) int64, number of most similar other views of each view.
        own_frame: (R,) bool, every view attends to itself.
        to_reference: (R,) bool, every view attends to the reference view.
        from_reference: (R,) bool, the reference view attends to every view.
        reference: () int64, index of the reference view, or -1.
        anchor_order: (M,) int64, view to take as the n-th anchor; -1 takes the farthest one.
        layer_map: (L,) int64, map of each layer.
        keep_ratio: (L,) float32, share of key blocks that the pooled selector keeps; 1 keeps all.
        cdf: (L,) float32, cumulated mass up to which the pooled selector keeps blocks.
        regimes: Regime of each layer.
    """

    tau: NDArray[np.float32]
    tau_low: NDArray[np.float32]
    anchors: NDArray[np.int64]
    min_neighbours: NDArray[np.int64]
    own_frame: NDArray[np.bool_]
    to_reference: NDArray[np.bool_]
    from_reference: NDArray[np.bool_]
    reference: NDArray[np.int64]
    anchor_order: NDArray[np.int64]
    layer_map: NDArray[np.int64]
    keep_ratio: NDArray[np.float32]
    cdf: NDArray[np.float32]
    regimes: tuple[Regime, ...]

    def inputs(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by the names of the graphs' inputs."""
        return {name: value for name, value in vars(self).items() if name != "regimes"}

    @property
    def sparse_layers(self) -> tuple[int, ...]:
        """Indices of the layers that are not dense."""
        return tuple(i for i, regime in enumerate(self.regimes) if not regime.is_dense)


@dataclass(frozen=True)
class _Rule:
    """Numbers of one map; the defaults keep every pair.

    The kind keeps a map of saliency apart from an equal dense one: a caller's map takes its place.
    """

    kind: RegimeKind = "dense"
    tau: float = _EVERY_PAIR
    tau_low: float = _EVERY_PAIR
    anchors: int = 0
    min_neighbours: int = 0
    own_frame: bool = True
    to_reference: bool = False
    from_reference: bool = False


def pair_rules(sparsity: Sparsity, depth: int, views: int, has_reference: bool) -> PairRules:
    """Return the rules of a run.

    Args:
        sparsity: Options with a selector other than `auto`.
        depth: Number of global layers L.
        views: Number of views M.
        has_reference: The model has a reference view, which is view 0.

    Raises:
        CovisError: The schedule or the layers do not fit the model.
    """
    regimes = layer_regimes(sparsity, depth)
    reference = has_reference and sparsity.reference
    by_layer = [_rule(regime, sparsity, views, reference) for regime in regimes]
    rules = list(dict.fromkeys(by_layer)) or [_Rule()]
    if len(rules) > PAIR_MAPS.most:
        raise user_error(
            f"has {len(rules)} different regimes, more than {PAIR_MAPS}",
            where="--schedule",
            hint="give neighbouring layers the same number",
        )
    most = max(rule.anchors for rule in rules)
    pooled = [regime.pooled for regime in regimes]
    ratios = [keep_ratio_input(r.keep_ratio if r.keep_ratio is not None else 1.0) for r in regimes]
    return PairRules(
        tau=np.array([rule.tau for rule in rules], np.float32),
        tau_low=np.array([rule.tau_low for rule in rules], np.float32),
        anchors=np.array([rule.anchors for rule in rules], np.int64),
        min_neighbours=np.array([rule.min_neighbours for rule in rules], np.int64),
        own_frame=np.array([rule.own_frame for rule in rules], np.bool_),
        to_reference=np.array([rule.to_reference for rule in rules], np.bool_),
        from_reference=np.array([rule.from_reference for rule in rules], np.bool_),
        reference=np.asarray(0 if reference else -1, np.int64),
        anchor_order=anchor_order(sparsity, views, most, has_reference),
        layer_map=np.array([rules.index(rule) for rule in by_layer], np.int64),
        keep_ratio=np.array(ratios, np.float32),
        cdf=np.where(pooled, sparsity.cdf, 0.0).astype(np.float32),
        regimes=regimes,
    )


def _rule(regime: Regime, sparsity: Sparsity, views: int, reference: bool) -> _Rule:
    if regime.kind == "dense":
        return _Rule()
    if regime.kind == "self":
        return _Rule("self", tau=_NO_PAIR, tau_low=_NO_PAIR)
    if regime.kind == "saliency":
        assert regime.tau is not None
        return _Rule(
            "saliency",
            tau=regime.tau,
            tau_low=sparsity.skip_below(regime.tau),
            min_neighbours=sparsity.min_neighbours or 0,
            to_reference=reference,
            from_reference=reference,
        )
    assert regime.anchors is not None
    similar = sparsity.anchor_choice == "similar"
    number = min(regime.anchors, views)
    return _Rule(
        "anchors",
        tau=_NO_PAIR,
        tau_low=_EVERY_PAIR if sparsity.low_precision else _NO_PAIR,
        anchors=0 if similar else number,
        min_neighbours=sparsity.anchor_neighbours + (number if similar else 0),
        own_frame=sparsity.own_frame,
        to_reference=reference,
    )


def anchor_order(
    sparsity: Sparsity, views: int, most: int, has_reference: bool
) -> NDArray[np.int64]:
    """Return the views (M,) to take as anchors, in order; -1 where the graph chooses the farthest.

    The reference view is always the first anchor. Every prefix is a choice of its own, because
    layers with a smaller budget take the first anchors alone.

    Args:
        sparsity: Rule of the choice and its seed.
        views: Number of views M.
        most: Largest number of anchors of any layer.
        has_reference: View 0 is the reference view.
    """
    order = np.full(views, -1, np.int64)
    if has_reference:
        order[0] = 0
    if sparsity.anchor_choice == "uniform":
        order[:most] = np.array(_coarse_to_fine(most), np.int64) * views // max(most, 1)
    if sparsity.anchor_choice == "random":
        chosen = np.random.default_rng([sparsity.anchor_seed, views]).permutation(views)
        if has_reference:
            chosen = np.concatenate([[0], chosen[chosen != 0]])
        order[:most] = chosen[:most]
    return order


def _coarse_to_fine(number: int) -> Sequence[int]:
    """Return 0 .. number - 1 in the order of their reversed bits, so that prefixes are spread."""
    bits = max(number - 1, 1).bit_length()
    return sorted(range(number), key=lambda index: int(f"{index:0{bits}b}"[::-1], 2))
