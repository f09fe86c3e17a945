"""The suite detects wrong implementations: each mutant here is a likely mistake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.vectors import oracle, plain
from tests.vectors.case import DTYPES, Array, AttentionCase, SelectCase
from tests.vectors.standard import standard_cases, standard_select_cases
from tests.vectors.suite import ContractError, check_attention, check_rules, check_select

ATTENTION = {case.name: case for case in standard_cases()}
SELECT = {case.name: case for case in standard_select_cases()}


class Oracle:
    """The oracle itself, rounded to the case's type, as an implementation."""

    name = "oracle"
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    low_precision = "exact"

    def supports(self, case: AttentionCase | SelectCase) -> str | None:
        return None

    def attention(self, case: AttentionCase) -> Array:
        with np.errstate(invalid="ignore"):
            return oracle.attention(case).astype(DTYPES[case.dtype])

    def select(self, case: SelectCase) -> Array:
        return oracle.select(case).level


def test_the_oracle_passes() -> None:
    for name in ("odd-regions", "trailing", "one-token-skipped", "no-frame"):
        assert check_attention(Oracle(), ATTENTION[name]) < 0.5
    assert check_select(Oracle(), SELECT["pair-mixed"]) == 0
    check_rules(Oracle(), "float32")


MUTANTS: dict[str, tuple[str, Callable[[AttentionCase], AttentionCase]]] = {
    "regions shifted": ("odd-regions", lambda c: replace(c, level=np.roll(c.level, 1, 3))),
    "q and k blocks exchanged": ("frame-pair-mixed", lambda c: replace(
        c, level=np.ascontiguousarray(np.swapaxes(c.level, 2, 3)))),
    "level 1 skipped": ("frame-pair-mixed", lambda c: replace(
        c, level=(c.level // 2 * 2).astype(np.int8))),
    "special first taken as last": ("frame-pair-sparse", lambda c: replace(
        c, layout=replace(c.layout, special_first=0, special_last=c.layout.special_first))),
    "trailing token not dense": ("trailing", lambda c: replace(
        c, layout=replace(c.layout, special_last=0, special_first=1))),
    "default scale": ("scale", lambda c: replace(c, scale=0.0)),
    "heads exchanged": ("heads-not-batch", lambda c: replace(c, level=c.level[:, ::-1].copy())),
    "batch taken from the first": ("batch-not-heads", lambda c: replace(c, level=c.level[:1])),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_mutants_are_caught(mutant: str, dtype: str) -> None:
    name, change = MUTANTS[mutant]

    class Mutant(Oracle):
        def attention(self, case: AttentionCase) -> Array:
            return oracle.attention(change(case)).astype(DTYPES[case.dtype])

    with pytest.raises(ContractError, match="error"):
        check_attention(Mutant(), ATTENTION[name].cast(dtype))


SELECT_MUTANTS: dict[str, tuple[str, Callable[[SelectCase], SelectCase]]] = {
    "cdf keeps one more": ("cdf", lambda c: replace(c, cdf=min(1.0, c.cdf + 0.1))),
    "ratio rounds up": ("ratio", lambda c: replace(c, keep_ratio=c.keep_ratio + 0.03)),
    "mean for max": ("max-pool", lambda c: replace(c, pool="mean")),
    "pair ignored": ("pair-mixed", lambda c: replace(c, pair=np.full((1, 1, 1, 1), 2, np.int8))),
    "pair transposed": ("pair-mixed", lambda c: replace(
        c, pair=np.ascontiguousarray(np.swapaxes(c.pair, 2, 3)))),
    "special tokens pooled": ("ratio", lambda c: replace(
        c, layout=replace(c.layout, special_first=0, special_last=5))),
}  # fmt: skip


@pytest.mark.parametrize("mutant", SELECT_MUTANTS)
def test_select_mutants_are_caught(mutant: str) -> None:
    name, change = SELECT_MUTANTS[mutant]

    class Mutant(Oracle):
        def select(self, case: SelectCase) -> Array:
            return oracle.select(change(case)).level

    with pytest.raises(ContractError, match=r"wrong rows|near tie"):
        check_select(Mutant(), SELECT[name])


def test_rules_catch_a_leaking_nan() -> None:
    class Leaky(Oracle):
        def attention(self, case: AttentionCase) -> Array:
            out = super().attention(case)
            out[np.isnan(out).any(axis=(2, 3))] += 1e-3
            return out

    with pytest.raises(ContractError, match="left its row"):
        check_rules(Leaky(), "float32")


def test_near_ties_are_rare() -> None:
    rows = [oracle.select(case).near_tie for case in SELECT.values()]
    assert np.mean(np.concatenate([r.ravel() for r in rows])) < 0.02


def test_plain_fp8_is_worse_than_exact_and_still_close() -> None:
    case = ATTENTION["frame-pair-ones"].cast("float16")
    exact = oracle.attention(case)
    fp8 = np.abs(plain.attention_fp8(case).astype(np.float64) - exact).max()
    plain_error = np.abs(plain.attention(case).astype(np.float64) - exact).max()
    assert 2 * plain_error < fp8 < 0.1
