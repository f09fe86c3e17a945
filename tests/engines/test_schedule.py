"""Regime of each layer: by the number of views, by the selector and by a schedule."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from covis.engines.errors import CovisError
from covis.engines.options import Selector, Sparsity
from covis.engines.regime import Regime, format_schedule
from covis.engines.schedule import (
    check_schedule,
    default_schedule,
    is_pooled,
    layer_regimes,
    reason,
    resolve,
)


def schedule_of(sparsity: Sparsity, depth: int = 24) -> str:
    return format_schedule(layer_regimes(sparsity, depth))


@pytest.mark.parametrize(
    ("views", "selector", "why"),
    [
        (1, "dense", "up to 50 views nothing is left out"),
        (2, "dense", "up to 50 views nothing is left out"),
        (50, "dense", "up to 50 views nothing is left out"),
        (51, "light", "more than 50 views, up to 250"),
        (250, "light", "more than 50 views, up to 250"),
        (251, "anchors", "more than 250 views"),
        (1083, "anchors", "more than 250 views"),
    ],
)
def test_the_regime_follows_the_number_of_views(views: int, selector: str, why: str) -> None:
    auto = Sparsity()
    assert resolve(auto, views) == replace(auto, selector=selector)  # type: ignore[arg-type]
    assert reason(auto, views) == why


def test_thresholds_can_be_moved_and_light_left_out() -> None:
    early = Sparsity(dense_up_to=3, light_up_to=5)
    assert [resolve(early, n).selector for n in (3, 4, 5, 6)] == [
        "dense", "light", "light", "anchors"]  # fmt: skip
    never = Sparsity(dense_up_to=10, light_up_to=10)
    assert [resolve(never, n).selector for n in (10, 11)] == ["dense", "anchors"]
    assert resolve(Sparsity(dense_up_to=0, light_up_to=0), 1).selector == "anchors"


@pytest.mark.parametrize("selector", ["dense", "light", "saliency", "anchors", "pooled", "both"])
def test_a_selector_that_was_asked_for_stays(selector: Selector) -> None:
    asked = Sparsity(selector)
    assert all(resolve(asked, views) is asked for views in (1, 60, 400))
    assert reason(asked, 400) == ""


@pytest.mark.parametrize(
    ("depth", "text"),
    [
        (24, "0-1:self, 2-8:anchors=10, 9-23:anchors=25"),  # VGGT, as published
        (18, "0-1:self, 2-6:anchors=10, 7-17:anchors=25"),  # pi^3
        (12, "0:self, 1-3:anchors=10, 4-11:anchors=25"),  # MapAnything
        (8, "0:self, 1-2:anchors=10, 3-7:anchors=25"),
        (4, "0-1:anchors=10, 2-3:anchors=25"),
        (1, "0:anchors=25"),
        (0, ""),
    ],
)
def test_the_published_schedule_at_every_depth(depth: int, text: str) -> None:
    assert schedule_of(Sparsity("anchors"), depth) == text
    light = layer_regimes(Sparsity("light"), depth)
    for ours, all_anchors in zip(light, default_schedule(depth, 25), strict=True):
        assert ours == (Regime() if all_anchors.anchors == 25 else all_anchors)


@pytest.mark.parametrize(("anchors", "few"), [(1, 1), (2, 1), (5, 2), (10, 4), (40, 16)])
def test_early_layers_take_four_tenths_of_the_anchors(anchors: int, few: int) -> None:
    text = f"0-1:self, 2-8:anchors={few}, 9-23:anchors={anchors}"
    if few == anchors:
        text = f"0-1:self, 2-23:anchors={anchors}"
    assert schedule_of(Sparsity("anchors", anchors=anchors)) == text


@pytest.mark.parametrize(
    ("sparsity", "text"),
    [
        (Sparsity("dense"), "0-23:dense"),
        (Sparsity("dense", schedule="all:self"), "0-23:dense"),
        (Sparsity("saliency", tau=0.8), "0-9:saliency=0.8, 10-23:dense"),
        (Sparsity("saliency", layers="all"), "0-23:saliency=0.9"),
        (Sparsity("saliency", layers="none"), "0-23:dense"),
        (Sparsity("saliency", layers="20-30"), "0-19:dense, 20-23:saliency=0.9"),
        (Sparsity("pooled", keep_ratio=0.5), "0-9:pooled=0.5, 10-23:dense"),
        (Sparsity("both", layers="3"), "0-2:dense, 3:saliency=0.9+pooled=0.25, 4-23:dense"),
        (Sparsity("anchors", layers="9-23"), "0-8:dense, 9-23:anchors=25"),
        (Sparsity("light", anchors=5, layers="0-3"), "0-3:anchors=5, 4-23:dense"),
    ],
)
def test_layers_and_numbers_are_the_short_form(sparsity: Sparsity, text: str) -> None:
    assert schedule_of(sparsity) == text


def test_a_schedule_takes_the_place_of_the_selectors_own() -> None:
    text = "0-1:self, 2-8:anchors, 9:saliency, 10-12:pooled, 13-23:anchors=40+pooled=0.75"
    chosen = Sparsity("anchors", schedule=text, anchors=7, tau=0.6, keep_ratio=0.5)
    assert schedule_of(chosen) == (
        "0-1:self, 2-8:anchors=7, 9:saliency=0.6, 10-12:pooled=0.5, 13-23:anchors=40+pooled=0.75"
    )


def test_which_runs_need_the_pooled_aggregator() -> None:
    assert not is_pooled(Sparsity(), 24)
    assert not is_pooled(Sparsity("anchors"), 24)
    assert is_pooled(Sparsity("pooled"), 24) and is_pooled(Sparsity("both"), 24)
    assert not is_pooled(Sparsity("pooled", layers="none"), 24)
    assert is_pooled(Sparsity("anchors", schedule="0:pooled, rest:anchors"), 24)
    assert not is_pooled(Sparsity("both", schedule="all:anchors"), 24)
    assert not is_pooled(Sparsity("dense", schedule="all:pooled"), 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "0-8:self"}, "--schedule: the model has no global layer 8; use 0 to 7"),
        ({"schedule": "0-6:self"}, "--schedule: leaves out layer 7 of the model's 8"),
        ({"layers": "12"}, "--layers: '12' names none of the model's 8 global layers"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(options: dict[str, str], message: str) -> None:
    chosen = Sparsity("anchors", **options)  # type: ignore[arg-type]
    with pytest.raises(CovisError, match=re.escape(message)):
        check_schedule(chosen, 8)
    with pytest.raises(CovisError, match=re.escape(message)):
        layer_regimes(chosen, 8)
