"""Lists and ranges of global layers, as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covis.engines.errors import CovisError, ExitCode
from covis.engines.layers import layer_range, parse_layers


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
        ("default", 24, range(10)),
        ("default", 8, range(8)),
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


def test_a_single_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(CovisError, match="no global layer 30; use 0 to 23"):
        parse_layers("0-9,30", 24)
    assert parse_layers("20-30", 24) == (20, 21, 22, 23)


def test_a_text_that_is_too_long() -> None:
    with pytest.raises(CovisError, match="--layers: is longer than 4,096 characters"):
        parse_layers("1," * 10_000, 24)


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


@pytest.mark.parametrize(
    ("word", "layers"),
    [("4", range(4, 5)), ("4-7", range(4, 8)), ("4-4", range(4, 5)), ("7-4", None), ("4-", None),
     ("-4", None), ("", None), ("4--7", None), ("12345", None), ("all", None)],
)  # fmt: skip
def test_one_range(word: str, layers: range | None) -> None:
    assert layer_range(word) == layers
