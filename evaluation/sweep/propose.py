"""The schedule that a profile suggests: the cheapest regime of each layer that a budget allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from covis.engines.options import Sparsity
from covis.engines.regime import Regime, format_schedule
from covis.engines.schedule import layer_regimes
from covis.evaluation.sweep.encoded import EncodedViews
from covis.evaluation.sweep.profile import Advance, Effect, with_schedule
from covis.evaluation.sweep.tune import Outcome, Trial

Bounds = tuple[float, float]
"""Bounds on the pose drift, in degrees, and on the depth drift, as a fraction."""


def schedules(effects: Sequence[Effect], depth: int, bounds: Bounds) -> list[tuple[Regime, ...]]:
    """Return the schedules of all budgets, from the tightest to the loosest, without the dense one.

    A budget is a share of the bounds, at most 1. Under it, each layer takes the cheapest regime
    whose drift, with all other layers dense, is within that share of both bounds.

    Args:
        effects: Effects of the regimes in each layer.
        depth: Number of global layers L.
        bounds: Bounds on the drift.
    """
    useful = [(e, e.drift.over(*bounds)) for e in effects if e.work < 1.0]
    found: dict[tuple[Regime, ...], None] = {}
    for budget in sorted({over for _, over in useful if over <= 1.0}):
        regimes = [Regime()] * depth
        allowed = [effect for effect, over in useful if over <= budget]
        for effect in sorted(allowed, key=lambda effect: effect.work, reverse=True):
            regimes[effect.layer] = effect.regime  # the cheapest comes last
        found[tuple(regimes)] = None
    return list(found)


def propose(
    effects: Sequence[Effect],
    views: EncodedViews,
    others: EncodedViews | None,
    base: Sparsity,
    bounds: Bounds,
    advance: Advance = lambda done, total: None,
) -> Outcome:
    """Find the loosest budget whose whole schedule stays within the bounds, by bisection.

    The effects of several layers add up in no simple way, so every schedule is run as a whole, and
    on other photos as well.

    Args:
        effects: Effects of the regimes in each layer, measured on `views`.
        views: Photos of the profile.
        others: Other photos of the same scene, for a check; None where there are too few.
        base: Source of the other options.
        bounds: Bounds on the drift.
        advance: Called before each schedule is run, and at the end.

    Returns:
        Outcome, without a best trial where only dense attention stays within the bounds.
    """
    layers = views.pipeline.bundle.manifest.model.global_layers
    options = schedules(effects, layers, bounds)
    trials: list[Trial] = []
    best: Trial | None = None
    most = len(options).bit_length()  # steps of a bisection
    low, high = -1, len(options)  # those up to `low` are within the bounds, those from `high` not
    while high - low > 1:
        middle = (low + high) // 2
        advance(len(trials), most)
        trials.append(_trial(with_schedule(base, options[middle]), views, others, bounds))
        if trials[-1].within(*bounds):
            best, low = trials[-1], middle
        else:
            high = middle
    advance(most, most)
    checked = 0 if others is None else len(others.images)
    return Outcome(best, tuple(trials), views.dense[1], len(views.images), checked)


def _trial(
    sparsity: Sparsity,
    views: EncodedViews,
    others: EncodedViews | None,
    bounds: Bounds,
) -> Trial:
    """Run a schedule on the photos of the profile and, if it stays within the bounds, on others."""
    run = views.run(sparsity)
    assert run.scene.sparsity is not None
    work, check = run.scene.sparsity.attention_work, None
    if others is not None and run.drift.within(*bounds):
        check = others.run(sparsity).drift
    return Trial(sparsity, work, run.seconds, run.drift, check)


def trial_row(trial: Trial, layers: int) -> dict[str, Any]:
    """Return a schedule that was run, for JSON; of each drift, the larger one of both photo sets.

    Args:
        trial: Schedule that was run.
        layers: Number of global layers L.
    """
    drifts = [trial.drift] + ([trial.check] if trial.check is not None else [])
    worst = {
        "pose_deg": max(drift.pose_deg for drift in drifts),
        "depth_rel": max(drift.depth_rel for drift in drifts),
    }
    finite = {name: x if math.isfinite(x) else None for name, x in worst.items()}
    schedule = format_schedule(layer_regimes(trial.sparsity, layers))
    return {"schedule": schedule, "work": trial.work, "seconds": trial.seconds, **finite}
