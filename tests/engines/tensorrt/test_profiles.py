"""Ranges of views and chunks, the shapes of a profile, and trtexec's syntax of shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError
from covis.engines.tensorrt.plans.profiles import (
    format_shapes,
    parse_range,
    parse_shapes,
    stage_profile,
    stage_shapes,
)
from covis.engines.tensorrt.plans.record import Range


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("1:100:500", (1, 100, 500)), ("2:9", (2, 9, 9)), ("7", (7, 7, 7)), ("1:1:1", (1, 1, 1))],
)
def test_ranges(text: str, numbers: tuple[int, int, int]) -> None:
    found = parse_range(text, "--views")
    assert (found.min, found.opt, found.max) == numbers


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "0:1:2",
        "2:1:3",
        "1:3:2",
        "1:2:3:4",
        "a",
        "-1",
        "1:²:3",
        "1: 2:3",
        "9" * 9,
        "1000001",
    ],
)
def test_no_ranges(text: str) -> None:
    with pytest.raises(CovisError, match=r"^--views: .* is no range; write MIN:OPT:MAX"):
        parse_range(text, "--views")


def test_shapes_of_stages(mini_bundle: Path) -> None:
    manifest = open_bundle(mini_bundle).manifest
    ranges = {
        "M": Range(min=2, opt=5, max=9),
        "N": Range(min=1, opt=3, max=4),
        "K": Range(min=1, opt=1, max=1),
        "R": Range(min=1, opt=3, max=8),
    }
    encoder, saliency = manifest.stages
    assert stage_profile(encoder, ranges) == {"N": ranges["N"]}
    shapes = stage_shapes(encoder, ranges)
    assert shapes.min == {"images": (1, 3, 14, 28)} and shapes.max == {"images": (4, 3, 14, 28)}
    shapes = stage_shapes(saliency, stage_profile(saliency, ranges))
    assert shapes.min == {"patch_tokens": (2, 4), "tau": (1,)}
    assert shapes.opt == {"patch_tokens": (5, 4), "tau": (3,)}
    assert shapes.max == {"patch_tokens": (9, 4), "tau": (8,)}
    assert shapes.dynamic == {"patch_tokens", "tau"}


names = st.text(
    st.characters(codec="ascii", exclude_characters=",:' ", categories="LN"), min_size=1
)
sizes = st.lists(st.integers(0, 10**9 - 1), max_size=5).map(tuple)


@given(st.dictionaries(names, sizes, min_size=1))
def test_shapes_there_and_back(shapes: dict[str, tuple[int, ...]]) -> None:
    assert parse_shapes(format_shapes(shapes), "--minShapes") == shapes


def test_spellings_of_trtexec() -> None:
    assert parse_shapes("'a:b':1x2, c:scalar,d:", "--minShapes") == {
        "a:b": (1, 2),
        "c": (),
        "d": (),
    }


@pytest.mark.parametrize(
    "text", ["", "a", "1x2", "a:1x", "a:x2", "a:-1x2", "a:1,a:1", ":1", "a:1.5"]
)
def test_no_shapes(text: str) -> None:
    with pytest.raises(CovisError, match="is no shape"):
        parse_shapes(text, "--minShapes")
