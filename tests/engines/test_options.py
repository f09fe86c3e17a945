"""Options: ranges of the selector's, changes of single fields, backends and runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from covis.engines.errors import CovisError
from covis.engines.options import (
    CPU_CHUNK,
    GPU_CHUNK,
    BackendName,
    BackendOptions,
    RunOptions,
    Selector,
    Sparsity,
    SparsityChanges,
    schedule_selector,
)
from covis.engines.regime import parse_schedule


@pytest.mark.parametrize("name", ["tau", "keep_ratio", "cdf"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, -math.inf])
def test_shares_out_of_range(name: str, value: float) -> None:
    with pytest.raises(CovisError, match=r"is not in \[0, 1\]; give a number from 0 to 1") as e:
        Sparsity("both", **{name: value})  # type: ignore[arg-type]
    assert e.value.where == f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("value", [-0.1, 0.91, math.nan])
def test_lower_threshold(value: float) -> None:
    with pytest.raises(CovisError, match=r"--tau-low: .* is not in \[0, tau = 0.9\]"):
        Sparsity("saliency", tau=0.9, tau_low=value)


@pytest.mark.parametrize("name", ["min_neighbours", "anchors", "dense_up_to", "light_up_to"])
@pytest.mark.parametrize("value", [-1, 10**19])
def test_numbers_of_views(name: str, value: int) -> None:
    with pytest.raises(CovisError, match=r"is not in \[[01], 1,000,000\]") as caught:
        Sparsity("anchors", **{name: value})  # type: ignore[arg-type]
    assert caught.value.where == f"--{name.replace('_', '-')}"


def test_no_anchors_is_another_regime() -> None:
    with pytest.raises(CovisError, match=r"--anchors: 0 is not in \[1, .* use the regime self in"):
        Sparsity("anchors", anchors=0)
    assert Sparsity("anchors", anchors=1).anchors == 1
    assert Sparsity("anchors", min_neighbours=0).min_neighbours == 0


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds(seed: int) -> None:
    with pytest.raises(CovisError, match=f"--anchor-seed: {seed} is no seed"):
        Sparsity("anchors", anchor_seed=seed)


def test_thresholds_of_views_rise() -> None:
    with pytest.raises(
        CovisError, match=r"--light-up-to: 49 is below --dense-up-to 50; .* must ri"
    ):
        Sparsity(light_up_to=49)
    with pytest.raises(CovisError, match="--light-up-to: 250 is below --dense-up-to 251"):
        Sparsity(dense_up_to=251)
    assert Sparsity(dense_up_to=9, light_up_to=9).light_up_to == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "0-9:kmeans"}, "--schedule: 'kmeans' is no regime"),
        ({"schedule": "0-1:self, 1-3:dense"}, "--schedule: names layer 1 twice"),
        ({"schedule": "0:self," * 1000}, "--schedule: is longer than 4,096 characters"),
        ({"layers": "some"}, "--layers: 'some' is no layer"),
        ({"layers": "1," * 10_000}, "--layers: is longer than 4,096 characters"),
    ],
)
def test_texts_are_checked_before_the_model_is_known(options: dict[str, str], message: str) -> None:
    with pytest.raises(CovisError, match=message):
        Sparsity("anchors", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"schedule": "all:self"}, {"tau": 0.5}, {"tau_low": 0.5}, {"layers": "all"},
     {"keep_ratio": 0.5}, {"cdf": 0.5}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_auto_refuses_what_it_would_not_read(options: dict[str, Any]) -> None:
    with pytest.raises(CovisError, match=r"has no effect with the selector auto, but is .*; give"):
        Sparsity(**options)
    Sparsity("both", **options)


def test_where_skipping_begins() -> None:
    assert Sparsity("saliency", tau=0.8).skip_below(0.8) == 0.8
    assert Sparsity("saliency", tau=0.8, low_precision=True).skip_below(0.8) == 0.0
    assert Sparsity("saliency", tau=0.8, tau_low=0.3).skip_below(0.8) == 0.3
    assert Sparsity("saliency", tau=0.8, tau_low=0.3, low_precision=True).skip_below(0.8) == 0.3


def test_neighbours_beside_the_anchors() -> None:
    assert Sparsity("anchors").anchor_neighbours == 4
    assert Sparsity("anchors", own_frame=False).anchor_neighbours == 0
    assert Sparsity("anchors", own_frame=False, min_neighbours=2).anchor_neighbours == 2
    assert Sparsity("anchors", min_neighbours=0).anchor_neighbours == 0


def test_changes() -> None:
    own = Sparsity("saliency", tau=0.8, tau_low=0.6, min_neighbours=2)
    assert SparsityChanges().apply(own) == own
    changed = SparsityChanges(selector="both", min_neighbours=0, reference=False).apply(own)
    assert changed == Sparsity("both", tau=0.8, tau_low=0.6, min_neighbours=0, reference=False)
    assert SparsityChanges(tau=0.5).apply(own).tau_low == 0.5
    assert SparsityChanges(tau=0.7).apply(own).tau_low == 0.6
    with pytest.raises(CovisError, match="--tau-low"):
        SparsityChanges(tau=0.5, tau_low=0.6).apply(own)
    with pytest.raises(CovisError, match="--tau"):
        SparsityChanges(tau=math.nan).apply(own)


@pytest.mark.parametrize(
    ("changes", "selector"),
    [
        ({}, "auto"),
        ({"dense_up_to": 3}, "auto"),
        ({"min_neighbours": 2, "reference": False, "order": "hilbert"}, "auto"),
        ({"tau": 0.5}, "saliency"),
        ({"tau_low": 0.5}, "saliency"),
        ({"low_precision": True}, "saliency"),
        ({"layers": "all"}, "saliency"),
        ({"keep_ratio": 0.5}, "pooled"),
        ({"cdf": 0.5}, "pooled"),
        ({"tau": 0.5, "keep_ratio": 0.5}, "both"),
        ({"anchors": 10}, "anchors"),
        ({"anchor_choice": "random"}, "anchors"),
        ({"anchor_seed": 1}, "anchors"),
        ({"own_frame": False}, "anchors"),
        ({"anchors": 10, "layers": "all"}, "anchors"),
        ({"anchors": 10, "low_precision": True}, "anchors"),
        ({"schedule": "0-1:self, rest:anchors"}, "anchors"),
        ({"schedule": "0-1:saliency, rest:dense"}, "saliency"),
        ({"schedule": "0-1:saliency+pooled, rest:dense"}, "both"),
        ({"schedule": "0-1:pooled, rest:dense"}, "pooled"),
        ({"schedule": "all:dense"}, "dense"),
        ({"schedule": "all:anchors", "tau": 0.5}, "anchors"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else value,
)
def test_an_option_chooses_the_selector_that_reads_it(
    changes: dict[str, Any], selector: str
) -> None:
    found = SparsityChanges(**changes).apply(Sparsity())
    assert found == Sparsity(selector, **changes)  # type: ignore[arg-type]


def test_a_higher_threshold_raises_the_next() -> None:
    changed = SparsityChanges(dense_up_to=300).apply(Sparsity())
    assert (changed.dense_up_to, changed.light_up_to) == (300, 300)
    assert SparsityChanges(dense_up_to=80).apply(Sparsity()).light_up_to == 250
    with pytest.raises(CovisError, match="light-up-to"):
        SparsityChanges(dense_up_to=80, light_up_to=60).apply(Sparsity())


@pytest.mark.parametrize("selector", ["dense", "light", "saliency", "anchors", "pooled", "both"])
def test_a_selector_that_is_asked_for_wins(selector: Selector) -> None:
    """Over auto, over what other options imply, and over the selector of a tuned bundle."""
    changes = {"tau": 0.5, "anchors": 10, "keep_ratio": 0.5, "layers": "all"}
    found = SparsityChanges(selector=selector, **changes).apply(Sparsity())  # type: ignore[arg-type]
    assert found == Sparsity(selector, **changes)  # type: ignore[arg-type]
    tuned = Sparsity("anchors", schedule="0-1:self, rest:anchors=12")
    assert SparsityChanges(selector=selector).apply(tuned) == Sparsity(selector)


def test_auto_drops_what_it_does_not_read() -> None:
    tuned = Sparsity("both", schedule="0-1:self, rest:saliency", tau=0.5, tau_low=0.4, layers="all",
                     keep_ratio=0.5, cdf=0.5, anchors=12, min_neighbours=2)  # fmt: skip
    found = SparsityChanges(selector="auto", light_up_to=99).apply(tuned)
    assert found == Sparsity("auto", anchors=12, min_neighbours=2, light_up_to=99)
    with pytest.raises(CovisError, match="--tau: has no effect with the selector auto"):
        SparsityChanges(selector="auto", tau=0.5).apply(tuned)


@pytest.mark.parametrize(
    ("schedule", "changes", "kept", "selector"),
    [
        ("0-1:self, rest:anchors=12", {"tau": 0.5}, False, "saliency"),
        ("0-1:self, rest:anchors=12", {"keep_ratio": 0.5}, False, "pooled"),
        ("0-1:self, rest:anchors=12", {"layers": "all"}, False, "anchors"),
        ("0-1:self, rest:anchors=12", {"anchors": 5}, False, "anchors"),
        ("0-1:self, 2:anchors=4, rest:anchors", {"anchors": 5}, True, "anchors"),
        ("0-1:self, rest:saliency", {"tau": 0.5}, True, "anchors"),
        ("0-1:self, rest:saliency=0.8", {"tau": 0.5}, False, "saliency"),
        ("rest:anchors+pooled", {"keep_ratio": 0.5}, True, "anchors"),
        ("rest:self", {"anchor_choice": "random"}, False, "anchors"),
        ("0-1:self, rest:anchors=12", {"min_neighbours": 2, "own_frame": False}, True, "anchors"),
        ("0-1:self, rest:anchors=12", {}, True, "anchors"),
    ],
)
def test_a_tuned_schedule_gives_way_to_what_it_does_not_read(
    schedule: str, changes: dict[str, Any], kept: bool, selector: Selector
) -> None:
    tuned = Sparsity("anchors", schedule=schedule)
    found = SparsityChanges(**changes).apply(tuned)
    assert found == replace(tuned, schedule=schedule if kept else "", selector=selector, **changes)


@pytest.mark.parametrize(
    ("own", "changes", "selector"),
    [
        ("dense", {"tau": 0.5}, "saliency"),
        ("dense", {"anchors": 5}, "anchors"),
        ("dense", {"min_neighbours": 5}, "dense"),
        ("light", {"anchors": 5}, "light"),
        ("anchors", {"tau": 0.5}, "saliency"),
        ("saliency", {"keep_ratio": 0.5}, "both"),
        ("pooled", {"tau": 0.5}, "both"),
        ("both", {"own_frame": False}, "anchors"),
    ],
)
def test_an_option_that_the_selector_does_not_read_chooses_another(
    own: Selector, changes: dict[str, Any], selector: Selector
) -> None:
    assert SparsityChanges(**changes).apply(Sparsity(own)) == Sparsity(selector, **changes)


def test_another_schedule_replaces_that_of_the_bundle() -> None:
    tuned = Sparsity("anchors", schedule="all:anchors=12")
    found = SparsityChanges(schedule="all:anchors=3", anchors=5).apply(tuned)
    assert (found.selector, found.schedule, found.anchors) == ("anchors", "all:anchors=3", 5)
    dense = SparsityChanges(schedule="0:self, rest:dense").apply(Sparsity("dense"))
    assert dense.selector == "anchors"


@pytest.mark.parametrize(
    ("schedule", "selector"),
    [("all:dense", "dense"), ("0:self, rest:dense", "anchors"), ("all:saliency", "saliency"),
     ("0:saliency, rest:pooled", "both"), ("all:pooled", "pooled"),
     ("0:anchors, 1:saliency, rest:pooled", "anchors")],
)  # fmt: skip
def test_the_selector_that_a_schedule_extends(schedule: str, selector: str) -> None:
    assert schedule_selector(parse_schedule(schedule)) == selector


@pytest.mark.parametrize(
    ("field", "value"), [("selector", "best"), ("order", "spiral"), ("anchor_choice", "far")]
)
def test_unknown_words_are_named_with_those_that_are_known(field: str, value: str) -> None:
    with pytest.raises(
        CovisError, match=f"--{field.replace('_', '-')}: {value!r} is unknown; use one of "
    ):
        Sparsity(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", get_args(BackendName))
def test_chunk_follows_the_backend(backend: BackendName) -> None:
    options = RunOptions(backend=BackendOptions(backend))
    assert options.frames_at_once == (CPU_CHUNK if backend == "cpu" else GPU_CHUNK)
    assert RunOptions(chunk=5, backend=BackendOptions(backend)).frames_at_once == 5
    with pytest.raises(CovisError, match="--chunk: 0 is below 1"):
        RunOptions(chunk=0)


def test_records_keep_the_names_of_the_libraries() -> None:
    """Older records contain them, and `covis estimate --bench` compares."""
    names = {backend: BackendOptions(backend).library for backend in get_args(BackendName)}
    assert names == {
        "cpu": "onnxruntime", "cuda": "onnxruntime",
        "ort-tensorrt": "onnxruntime-tensorrt", "tensorrt": "tensorrt",
    }  # fmt: skip


def test_backends_that_do_not_exist_or_run_no_plans() -> None:
    with pytest.raises(CovisError, match="--backend: 'vulkan' is unknown; use one of cpu, cuda"):
        BackendOptions("vulkan")  # type: ignore[arg-type]
    with pytest.raises(CovisError, match="--plans: has no meaning with --backend cuda"):
        BackendOptions("cuda", plans=Path("plans"))
    with pytest.raises(CovisError, match=r"--trust-plan: has no meaning .*; give --backend"):
        BackendOptions(trust_plan=("0" * 64,))
    assert BackendOptions("tensorrt", plans=Path("plans")).plans == Path("plans")
