"""Options: ranges of the selector's, layers, changes of single fields, backends and runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covis.engines.errors import CovisError, ExitCode
from covis.engines.options import (
    CPU_CHUNK,
    GPU_CHUNK,
    BackendName,
    BackendOptions,
    RunOptions,
    Sparsity,
    SparsityChanges,
    parse_layers,
)


@pytest.mark.parametrize(
    ("text", "depth", "layers"),
    [
        ("0-9", 24, range(10)),
        ("0-9", 4, range(4)),
        ("0,2,4-7", 24, [0, 2, 4, 5, 6, 7]),
        ("7, 3 ,3-4", 24, [3, 4, 7]),
        ("all", 5, range(5)),
        ("none", 5, []),
        ("", 5, []),
        ("23", 24, [23]),
        ("0-9999", 3, range(3)),
    ],
)
def test_layers(text: str, depth: int, layers: list[int]) -> None:
    assert parse_layers(text, depth) == tuple(layers)


@pytest.mark.parametrize(
    "text",
    ["x", "1-", "-1", "5-2", "1,,2", ",", "0..9", "0-9-12", "1.5", "²", "٣", "1e3", "9" * 4000],
)
def test_no_layers(text: str) -> None:
    with pytest.raises(CovisError, match=r"--layers: .* is no layer or range of layers; write"):
        parse_layers(text, 24)


@pytest.mark.parametrize("text", ["99", "24", "30-40"])
def test_layers_the_model_lacks(text: str) -> None:
    with pytest.raises(CovisError, match="names none of the model's 24 global layers; use 0 to 23"):
        parse_layers(text, 24)


@given(st.sets(st.integers(0, 30), min_size=1))
def test_layers_written_out_are_read_back(layers: set[int]) -> None:
    assert parse_layers(",".join(map(str, layers)), 31) == tuple(sorted(layers))


@given(st.text(max_size=12))
def test_any_text_gives_layers_or_one_error(text: str) -> None:
    try:
        layers = parse_layers(text, 24)
    except CovisError as error:
        assert error.code == ExitCode.USER
    else:
        assert all(0 <= layer < 24 for layer in layers)


@pytest.mark.parametrize("name", ["tau", "keep_ratio", "cdf"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, -math.inf])
def test_shares_out_of_range(name: str, value: float) -> None:
    with pytest.raises(CovisError, match=r"is not in \[0, 1\]; give a number from 0 to 1") as e:
        Sparsity(**{name: value})  # type: ignore[arg-type]
    assert e.value.where == f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("value", [-0.1, 0.91, math.nan])
def test_lower_threshold(value: float) -> None:
    with pytest.raises(CovisError, match=r"--tau-low: .* is not in \[0, tau = 0.9\]"):
        Sparsity(tau=0.9, tau_low=value)


@pytest.mark.parametrize("value", [-1, 10**19])
def test_neighbours(value: int) -> None:
    with pytest.raises(CovisError, match="--min-neighbours"):
        Sparsity(min_neighbours=value)


def test_where_skipping_begins() -> None:
    assert Sparsity(tau=0.8).skip_below == 0.8
    assert Sparsity(tau=0.8, low_precision=True).skip_below == 0.0
    assert Sparsity(tau=0.8, tau_low=0.3).skip_below == 0.3
    assert Sparsity(tau=0.8, tau_low=0.3, low_precision=True).skip_below == 0.3


def test_changes() -> None:
    own = Sparsity(tau=0.8, tau_low=0.6, min_neighbours=2)
    assert SparsityChanges().apply(own) == own
    changed = SparsityChanges(selector="both", min_neighbours=0, reference=False).apply(own)
    assert changed == Sparsity("both", 0.8, 0.6, min_neighbours=0, reference=False)
    assert SparsityChanges(tau=0.5).apply(own).tau_low == 0.5
    assert SparsityChanges(tau=0.7).apply(own).tau_low == 0.6
    with pytest.raises(CovisError, match="--tau-low"):
        SparsityChanges(tau=0.5, tau_low=0.6).apply(own)
    with pytest.raises(CovisError, match="--tau"):
        SparsityChanges(tau=math.nan).apply(own)


def test_a_single_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(CovisError, match="no global layer 30; use 0 to 23"):
        parse_layers("0-9,30", 24)
    assert parse_layers("20-30", 24) == (20, 21, 22, 23)


@pytest.mark.parametrize(("field", "value"), [("selector", "best"), ("order", "spiral")])
def test_unknown_words_are_named_with_those_that_are_known(field: str, value: str) -> None:
    with pytest.raises(CovisError, match=f"--{field}: {value!r} is unknown; use one of "):
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
