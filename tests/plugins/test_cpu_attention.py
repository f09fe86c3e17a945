"""BlockSparseAttention in libcovis_ort beyond the common suite: sizes, non-finite keys, threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.plugins.sessions import run
from tests.vectors import oracle
from tests.vectors.case import AttentionCase

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


@pytest.mark.parametrize("head_size", [1, 3, 8, 32, 40, 64, 96, 128, 200])
@pytest.mark.parametrize("count", [1, 5, 97, 300])
def test_dense_attention_at_every_head_size(head_size: int, count: int) -> None:
    feeds = tokens((2, 2, count, head_size))
    given = run(OP, {**feeds, "level": DENSE})
    case = AttentionCase("dense", feeds["Q"], feeds["K"], feeds["V"], DENSE)
    assert np.abs(given - oracle.attention(case)).max() < 1e-5 * np.abs(feeds["V"]).max()


def test_scale_is_used() -> None:
    feeds = tokens((1, 1, 60, 16))
    given = run(OP, {**feeds, "level": DENSE}, {"scale": 0.7})
    scale = float(np.float32(0.7))
    case = AttentionCase("scale", feeds["Q"], feeds["K"], feeds["V"], DENSE, scale=scale)
    assert np.abs(given - oracle.attention(case)).max() < 1e-5 * np.abs(feeds["V"]).max()


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
