"""BlockSparseAttention in libcovis_ort: the element rule, types, non-finite values, determinism."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from tests.plugins.oracle import attended, attention
from tests.plugins.sessions import run

Array = NDArray[Any]
OP = "BlockSparseAttention"
DENSE = np.full((1, 1, 1, 1), 2, np.int8)


def tokens(shape: tuple[int, ...], seed: int = 0) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(np.float32) for name in "QKV"}


def random_level(shape: tuple[int, ...], density: float, seed: int = 1) -> Array:
    generator = np.random.default_rng(seed)
    kept = generator.random(shape) < density
    level: Array = np.where(kept, generator.integers(1, 3, shape), 0).astype(np.int8)
    return level


def error(feeds: dict[str, Array], level: Array, **attributes: int) -> float:
    """Largest difference from the oracle, relative to the largest value."""
    given = run(OP, {**feeds, "level": level}, attributes)
    mask = attended(level, feeds["Q"].shape[2], **attributes)
    wanted = attention(feeds["Q"], feeds["K"], feeds["V"], mask)
    return float(np.abs(given - wanted).max() / np.abs(feeds["V"]).max())


@pytest.mark.parametrize("head_size", [1, 3, 8, 32, 40, 64, 96, 128, 200])
@pytest.mark.parametrize("count", [1, 5, 97, 300])
def test_dense_attention_at_every_head_size(head_size: int, count: int) -> None:
    assert error(tokens((2, 2, count, head_size)), DENSE) < 1e-5


FRAMES = {"frame_tokens": 29, "special_first": 5, "q_block": 24, "k_block": 24}
LAYOUTS: dict[str, tuple[int, dict[str, int]]] = {
    "frame pairs": (29 * 7, FRAMES),
    "frame pairs of long frames": (205 * 4, {**FRAMES, "frame_tokens": 205, "q_block": 200}),
    "pooled blocks across frames": (141 * 5, {**FRAMES, "frame_tokens": 141, "q_block": 128}),
    "specials last and trailing": (
        3 * 50 + 2,
        {"frame_tokens": 50, "special_last": 3, "trailing_tokens": 2, "q_block": 10, "k_block": 7},
    ),
    "single tokens": (150, {}),
    "one region": (77, {"q_block": 100, "k_block": 100}),
    "large queries, small keys": (400, {"q_block": 130, "k_block": 3}),
    "small queries, large keys": (400, {"q_block": 3, "k_block": 130}),
    "one frame of one patch": (1, {}),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_element_rule(name: str, density: float) -> None:
    count, attributes = LAYOUTS[name]
    if "k_block" in attributes and attributes["k_block"] == 24:
        attributes = {**attributes, "k_block": 64 if "pooled" in name else attributes["q_block"]}
    frame = attributes.get("frame_tokens", 1)
    trailing = attributes.get("trailing_tokens", 0)
    special = attributes.get("special_first", 0) + attributes.get("special_last", 0)
    patches = (count - trailing) // frame * (frame - special)
    rows = -(-patches // attributes.get("q_block", 1))
    columns = -(-patches // attributes.get("k_block", 1))
    feeds = tokens((2, 3, count, 32))
    for shape in (
        (2, 3, rows, columns),
        (1, 1, rows, columns),
        (2, 1, 1, columns),
        (1, 3, rows, 1),
    ):
        assert error(feeds, random_level(shape, density), **attributes) < 1e-5


@pytest.mark.parametrize(
    ("element", "tolerance"), [(TensorProto.FLOAT16, 1e-3), (TensorProto.BFLOAT16, 8e-3)]
)
def test_half_types(element: int, tolerance: float) -> None:
    feeds = tokens((1, 2, 205 * 2, 64))
    attributes = {"frame_tokens": 205, "special_first": 5, "q_block": 50, "k_block": 50}
    level = random_level((1, 2, 8, 8), 0.5)
    given = run(OP, {**feeds, "level": level}, attributes, element)
    mask = attended(level, 410, **attributes)
    wanted = attention(feeds["Q"], feeds["K"], feeds["V"], mask)
    assert np.abs(given - wanted).max() < tolerance * np.abs(feeds["V"]).max()


def test_scale_is_used() -> None:
    feeds = tokens((1, 1, 60, 16))
    given = run(OP, {**feeds, "level": DENSE}, {"scale": 0.7})
    mask = attended(DENSE, 60)
    wanted = attention(feeds["Q"], feeds["K"], feeds["V"], mask, scale=float(np.float32(0.7)))
    assert np.abs(given - wanted).max() < 1e-5 * np.abs(feeds["V"]).max()


def test_large_scores_stay_exact_where_one_key_wins() -> None:
    feeds = tokens((1, 1, 200, 32))
    feeds["Q"] *= 1e15
    feeds["K"] *= 1e15
    given = run(OP, {**feeds, "level": DENSE})
    scores = feeds["Q"][0, 0].astype(np.float64) @ feeds["K"][0, 0].astype(np.float64).T
    np.testing.assert_allclose(given[0, 0], feeds["V"][0, 0][scores.argmax(-1)], rtol=1e-6)


def test_rows_with_nothing_to_attend_to_are_zeros() -> None:
    feeds = tokens((1, 1, 256, 64))
    level = np.full((1, 1, 4, 4), 2, np.int8)
    level[0, 0, 1] = 0
    given = run(OP, {**feeds, "level": level}, {"q_block": 64, "k_block": 64})
    assert (given[0, 0, 64:128] == 0).all()
    assert (np.abs(np.delete(given[0, 0], np.s_[64:128], 0)).max(-1) > 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_stays_in_its_row(value: float) -> None:
    feeds = tokens((1, 2, 300, 32))
    level = random_level((1, 1, 75, 75), 0.5)
    level[:, :, :, 0] = 2  # every row attends to something
    attributes = {"q_block": 4, "k_block": 4}
    before = run(OP, {**feeds, "level": level}, attributes)
    feeds["Q"][0, 1, 123, 7] = value
    after = run(OP, {**feeds, "level": level}, attributes)
    others = np.ones((2, 300), bool)
    others[1, 123] = False
    np.testing.assert_array_equal(before[0][others], after[0][others])
    assert np.isnan(after[0, 1, 123]).all()


@pytest.mark.parametrize("name", ["K", "V"])
@pytest.mark.parametrize("block", [4, 64])
def test_a_key_that_is_not_finite_reaches_only_those_who_attend(name: str, block: int) -> None:
    feeds = tokens((1, 1, 256, 32))
    regions = 256 // block
    level = random_level((1, 1, regions, regions), 0.5)
    attributes = {"q_block": block, "k_block": block}
    before = run(OP, {**feeds, "level": level}, attributes)
    feeds[name][0, 0, 100, 3] = np.nan
    after = run(OP, {**feeds, "level": level}, attributes)
    reached = np.repeat(level[0, 0, :, 100 // block] > 0, block)
    np.testing.assert_array_equal(before[0, 0, ~reached], after[0, 0, ~reached])
    assert np.isnan(after[0, 0, reached]).any(-1).all()


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    feeds = tokens((1, 4, 1000, 64))
    level = random_level((1, 4, 8, 16), 0.4)
    attributes = {"q_block": 128, "k_block": 64}
    results = [run(OP, {**feeds, "level": level}, attributes, threads=n) for n in (1, 2, 3, 7)]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
