"""Effect of each regime in each global layer, all other layers being dense.

Such a run gives two figures: how far the regime moves the layer's own attention, whose input is
that of the dense run, and how much of it arrives at the cameras and the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from covis.engines.errors import user_error
from covis.engines.limits import PAIR_MAPS
from covis.engines.options import Sparsity, schedule_selector
from covis.engines.regime import Regime, format_schedule
from covis.engines.schedule import layer_regimes
from covis.evaluation.metrics.drift import Drift
from covis.evaluation.sweep.encoded import EncodedViews, Observer
from covis.evaluation.sweep.predict import attention_work
from covis.runtime.scene.scene import Scene

Advance = Callable[[int, int], None]
"""Called with the number of runs done and of all runs."""


@dataclass(frozen=True)
class Effect:
    """Effect of one regime in one layer.

    Attributes:
        layer: Index of the global layer.
        regime: Regime of that layer; every other layer is dense.
        work: Share of the layer's dense attention that is computed.
        change: Relative RMS change of the layer's attention against dense, for the same input.
        drift: Drift of the result from the dense one.
    """

    layer: int
    regime: Regime
    work: float
    change: float
    drift: Drift

    def row(self) -> dict[str, Any]:
        """Return the figures for JSON; numbers that are not finite become None."""
        numbers = {
            "work": self.work,
            "change": self.change,
            "pose_deg": self.drift.pose_deg,
            "rotation_deg": self.drift.rotation_deg,
            "shift_deg": self.drift.shift_deg,
            "depth_rel": self.drift.depth_rel,
        }
        finite = {name: x if np.isfinite(x) else None for name, x in numbers.items()}
        return {"layer": self.layer, "regime": str(self.regime), **finite}


def layer_effects(
    views: EncodedViews,
    regimes: Sequence[Regime],
    base: Sparsity,
    advance: Advance = lambda done, total: None,
) -> list[Effect]:
    """Measure every regime in every global layer, one at a time.

    Args:
        views: Photos to measure on.
        regimes: Regimes to measure, with every number filled in.
        base: Source of the other options (neighbours, choice of anchors, reference).
        advance: Called before the first run and after each.

    Raises:
        CovisError: The backend does not show single layers, or a stage fails.
    """
    depth = views.pipeline.bundle.manifest.model.global_layers
    total, effects = depth * len(regimes), list[Effect]()
    advance(0, total)
    for layer in range(depth):
        observer = Observer(views.pipeline, layer)
        for regime in regimes:
            schedule = [Regime()] * depth
            schedule[layer] = regime
            run = views.run(with_schedule(base, schedule), observer)
            report = run.scene.sparsity
            assert report is not None and run.change is not None
            work = float(report.kept_blocks.mean())
            effects.append(Effect(layer, regime, work, run.change, run.drift))
            advance(len(effects), total)
    return effects


def with_schedule(base: Sparsity, regimes: Sequence[Regime]) -> Sparsity:
    """Return the options with a schedule, and with the selector that it extends.

    Nothing is computed at low precision, which not every backend has, and which would hide pairs
    that another backend skips.
    """
    selector = schedule_selector(regimes)
    text = "" if selector == "dense" else format_schedule(tuple(regimes))
    options = replace(base, selector="dense", tau_low=None, low_precision=False, cdf=0.0)
    return replace(options, selector=selector, schedule=text, layers="default")


def measurable(
    regimes: Sequence[Regime], base: Sparsity, scene: Scene, has_reference: bool
) -> tuple[tuple[Regime, ...], tuple[str, ...]]:
    """Return the regimes to measure, each once with every number filled in, and notes on others.

    Args:
        regimes: Regimes as the user gives them.
        base: Source of the numbers that a regime leaves open.
        scene: Scene of the photos to measure on, which has their similarity.
        has_reference: The model has a reference view, which is view 0.

    Raises:
        CovisError: No regime leaves out anything, or there are more than a schedule may have.
    """
    assert scene.similarity is not None
    filled = layer_regimes(with_schedule(base, regimes), len(regimes)) if regimes else ()
    found, notes = list[Regime](), list[str]()
    for regime in dict.fromkeys(filled):
        options = with_schedule(base, [regime])
        if attention_work(scene.similarity, options, 1, has_reference) < 1.0:
            found.append(regime)
        elif not regime.is_dense:
            notes.append(f"{regime} is not measured: it computes all pairs of {len(scene)} views")
    if not found:
        raise user_error(
            f"names no regime that leaves out a pair of the {len(scene)} views",
            where="--regimes",
            hint="give e.g. self and fewer anchors, or more --views",
        )
    if len(found) > PAIR_MAPS.most - 1:
        raise user_error(
            f"names {len(found)} regimes; a schedule has at most {PAIR_MAPS.most}, with dense",
            where="--regimes",
            hint="leave some out",
        )
    return tuple(found), tuple(notes)
