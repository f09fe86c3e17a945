"""The settings of a sweep: every combination that its axes name, once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from covis.engines.errors import CovisError
from covis.engines.layers import parse_layers
from covis.engines.options import Sparsity
from covis.engines.regime import Regime
from covis.engines.schedule import default_schedule, layer_regimes
from covis.evaluation.sweep.axes import ANCHOR_SOURCES, SweepAxes
from covis.evaluation.sweep.settings import DROPS, drop_layers, layer_words, settings

ONLY_ANCHORS = SweepAxes(taus=(), selectors=(), shares=(), schedules=())


def test_layers_by_word() -> None:
    assert [layer_words(w, 24) for w in ("third", "two-thirds", "all")] == ["0-7", "0-15", "all"]
    assert [layer_words(w, 8) for w in ("third", "two-thirds", "2,5-7")] == ["0-2", "0-4", "2,5-7"]
    assert layer_words("third", 1) == "0-0"
    with pytest.raises(CovisError, match="'9' names none of the model's 8 global layers"):
        layer_words("9", 8)


@pytest.mark.parametrize("depth", [1, 3, 8, 24])
def test_layers_dropped(depth: int) -> None:
    for drop in DROPS:
        for count in range(1, depth + 1):
            layers = parse_layers(drop_layers(drop, count, depth), depth)
            assert len(layers) == count, (drop, count)
    half = max(1, depth // 2)
    assert parse_layers(drop_layers("front", half, depth)) == tuple(range(half))
    assert parse_layers(drop_layers("back", half, depth))[-1] == depth - 1
    spread = np.diff(parse_layers(drop_layers("alternating", half, depth)))
    assert not len(spread) or spread.max() - spread.min() <= 1


def test_the_settings_are_every_combination_once() -> None:
    axes = SweepAxes((0.5, 0.9), keep_ratios=(0.1,), shares=(0.25,), drops=True, anchors=(2, 4))
    points = settings(axes, Sparsity(low_precision=True, min_neighbours=2), 8)
    names = [point.name for point in points]
    assert len(set(names)) == len(names) and points[0].kind == "dense"
    assert Counter(point.kind for point in points) == {
        "dense": 1, "tau": 2 * 2, "pooled": 2, "pairs": 2 * 3, "drop": 4 * 3, "anchors": 2 * 5,
        "schedule": 4,
    }  # fmt: skip
    assert not any(p.sparsity.low_precision for p in points)
    others = [p.sparsity.min_neighbours for p in points if p.schedule != "gotohunt"]
    assert set(others) == {2}


def test_the_default_sweep_is_of_fewer_than_60_settings() -> None:
    for views in (0, 2, 10, 24, 48, 100, 1000):
        assert 30 < len(settings(SweepAxes(), Sparsity(), 24, views=views)) < 60


def test_numbers_of_anchors_are_below_the_views() -> None:
    axes = SweepAxes()
    assert axes.anchor_numbers(0) == axes.anchor_numbers(200) == (10, 25, 40, 60, 100)
    assert axes.anchor_numbers(100) == (10, 25, 40, 60)
    assert axes.anchor_numbers(24) == (3, 6, 10, 12)  # too few for a curve: shares as well
    assert axes.anchor_numbers(2) == (1,) and axes.anchor_numbers(1) == ()
    assert replace(axes, anchors=()).anchor_numbers(24) == ()


def test_every_choice_runs_at_every_number_under_every_rule() -> None:
    axes = replace(
        ONLY_ANCHORS,
        anchors=(3, 6),
        anchor_shares=(),
        anchor_seeds=(0, 5),
        own_frame=(True, False),
        min_neighbours=(0, 2),
    )
    base = Sparsity(selector="saliency", tau=0.3, layers="0", schedule="all:saliency")
    points = [s for s in settings(axes, base, 8, views=7) if s.kind == "anchors"]
    assert len({s.name for s in points}) == len(points) == 2 * 2 * 2 * (4 + 2)
    assert Counter(s.choice for s in points)["random"] == 16
    for s in points:
        few, most = (max(1, round(0.4 * s.sparsity.anchors)), s.sparsity.anchors)
        assert layer_regimes(s.sparsity, 8) == default_schedule(8, most)
        assert layer_regimes(s.sparsity, 8)[1] == Regime("anchors", anchors=few)
    of = {s.name: s.sparsity for s in points}
    assert not of["anchors-similar-6-no-own-frame-neighbours0"].own_frame
    assert of["anchors-similar-6-no-own-frame-neighbours0"].anchor_choice == "similar"
    assert of["anchors-random5-3-neighbours2"].anchor_seed == 5
    assert of["anchors-random5-3-neighbours2"].min_neighbours == 2
    assert of["anchors-oracle-3-neighbours0"].anchor_choice == "kcenter"  # then replaced


def test_without_an_axis_the_bundle_s_own_rule_counts() -> None:
    points = settings(replace(ONLY_ANCHORS, anchors=(3,)), Sparsity(min_neighbours=1), 8)
    assert [s.name for s in points[1:]] == [
        f"anchors-{'random0' if c == 'random' else c}-3" for c in ANCHOR_SOURCES
    ]
    assert {s.sparsity.min_neighbours for s in points} == {1}


def test_schedules_run_at_the_number_nearest_to_the_bundle_s() -> None:
    texts = ("default", "light", "all", "gotohunt", "0-1:self, rest:anchors", "0-1:self,rest:dense")
    axes = replace(ONLY_ANCHORS, anchors=(3, 6, 12), anchor_choices=(), schedules=texts)
    points = settings(axes, Sparsity(), 8, views=24)[1:]
    assert [s.schedule for s in points] == list(texts) and len({s.name for s in points}) == 6
    assert {s.sparsity.anchors for s in points} == {12}  # of 25
    default, light, everywhere, published, own, _ = (s.sparsity for s in points)
    assert layer_regimes(default, 8) == layer_regimes(published, 8) == default_schedule(8, 12)
    assert default.anchor_neighbours == 4 and published.anchor_neighbours == 0
    assert default.own_frame and not published.own_frame
    assert layer_regimes(light, 8) == default_schedule(8, 12, light=True)
    assert layer_regimes(everywhere, 8) == (Regime("anchors", anchors=12),) * 8
    assert layer_regimes(own, 8) == (
        *(Regime("self"),) * 2,
        *(Regime("anchors", anchors=12),) * 6,
    )
    assert all("/" not in s.name and ":" not in s.name for s in points)


def test_a_setting_of_another_bundle_has_a_name_of_its_own() -> None:
    axes = replace(ONLY_ANCHORS, anchors=())
    assert [s.name for s in settings(axes, Sparsity(), 4, "fp8")] == ["fp8/dense"]
