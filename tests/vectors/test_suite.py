"""The suite detects wrong implementations: each mutant here is a likely mistake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.vectors import farthest_oracle, oracle, plain
from tests.vectors.case import DTYPES, Array, AttentionCase, SelectCase
from tests.vectors.farthest_case import FarthestCase, standard_farthest_cases
from tests.vectors.standard import standard_cases, standard_select_cases
from tests.vectors.suite import (
    Case,
    ContractError,
    check_attention,
    check_farthest,
    check_farthest_rules,
    check_rules,
    check_select,
)

ATTENTION = {case.name: case for case in standard_cases()}
SELECT = {case.name: case for case in standard_select_cases()}
FARTHEST = {case.name: case for case in standard_farthest_cases()}


class Oracle:
    """The oracle itself, rounded to the case's type, as an implementation."""

    name = "oracle"
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    low_precision = "exact"

    def supports(self, case: Case) -> str | None:
        return None

    def attention(self, case: AttentionCase) -> Array:
        with np.errstate(invalid="ignore"):
            return oracle.attention(case).astype(DTYPES[case.dtype])

    def select(self, case: SelectCase) -> Array:
        return oracle.select(case).level

    def farthest(self, case: FarthestCase) -> Array:
        return farthest_oracle.farthest(case)


def test_the_oracle_passes() -> None:
    for name in ("odd-regions", "trailing", "one-token-skipped", "no-frame"):
        assert check_attention(Oracle(), ATTENTION[name]) < 0.5
    assert check_select(Oracle(), SELECT["pair-mixed"]) == 0
    check_rules(Oracle(), "float32")
    assert sum(check_farthest(Oracle(), case) for case in FARTHEST.values()) == 0
    check_farthest_rules(Oracle())


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


class Greedy(Oracle):
    """FarthestFirst in float32, one method a rule, so that a mutant changes one rule."""

    def farthest(self, case: FarthestCase) -> Array:
        rank = np.full(case.views, self.not_taken(case), np.int32)
        taken: list[int] = []
        for step in range(self.steps(case)):
            wanted = int(case.given[step])
            if not self.may_take(wanted, taken, case):
                score = self.score(case, taken) if taken else self.first_score(case)
                score = np.where(np.isin(np.arange(case.views), taken), -np.inf, score)
                wanted = self.highest(score)
            rank[wanted] = step
            taken.append(wanted)
        return rank

    def steps(self, case: FarthestCase) -> int:
        return case.steps

    def not_taken(self, case: FarthestCase) -> int:
        return case.views

    def may_take(self, view: int, taken: list[int], case: FarthestCase) -> bool:
        return 0 <= view < case.views and view not in taken

    def average(self, case: FarthestCase) -> Array:
        return (case.similarity + case.similarity.T) / np.float32(2)

    def first_score(self, case: FarthestCase) -> Array:
        return self.average(case).mean(1)

    def score(self, case: FarthestCase, taken: list[int]) -> Array:
        return (np.float32(1) - self.average(case)[:, taken]).min(1)

    def highest(self, score: Array) -> int:
        return int(np.nanargmax(score))


def changed(**rules: Callable[..., object]) -> Oracle:
    """Return a Greedy with other rules."""
    return type("Mutant", (Greedy,), rules)()


FARTHEST_MUTANTS: dict[str, tuple[str, Oracle]] = {
    "last of equal views": ("quantised-more", changed(
        highest=lambda _, score: len(score) - 1 - int(score[::-1].argmax()))),
    "last of identical views": ("kind-identical", changed(
        highest=lambda _, score: len(score) - 1 - int(score[::-1].argmax()))),
    "rows only": ("asymmetric-more", changed(average=lambda _, case: case.similarity)),
    "columns only": ("asymmetric-more", changed(average=lambda _, case: case.similarity.T)),
    "starts at view 0": ("anchors", changed(
        first_score=lambda _, case: -np.arange(case.views))),
    "starts at the least similar view": ("kind-clusters", changed(
        first_score=lambda self, case: -self.average(case).mean(1))),
    "starts at the row of the largest mean": ("asymmetric-more", changed(
        first_score=lambda _, case: case.similarity.mean(1))),
    "mean without the view itself": ("kind-diagonal", changed(
        first_score=lambda self, case: self.average(case).sum(1) - case.similarity.diagonal())),
    "mean distance": ("anchors", changed(
        score=lambda self, case, taken: -self.average(case)[:, taken].mean(1))),
    "largest distance": ("anchors", changed(
        score=lambda self, case, taken: -self.average(case)[:, taken].min(1))),
    "distance to the last view only": ("anchors", changed(
        score=lambda self, case, taken: -self.average(case)[:, taken[-1]])),
    "distance to the first view only": ("anchors", changed(
        score=lambda self, case, taken: -self.average(case)[:, taken[0]])),
    "nearest instead of farthest": ("kind-descriptors", changed(
        score=lambda self, case, taken: self.average(case)[:, taken].max(1))),
    "takes similarities for distances": ("kind-negative", changed(
        score=lambda self, case, taken: np.abs(self.average(case)[:, taken]).min(1))),
    "one step too few": ("count-2", changed(steps=lambda _, case: max(case.steps - 1, 0))),
    "one step too many": ("count-2", changed(steps=lambda _, case: case.steps + 1)),
    "always all views": ("count--1", changed(steps=lambda _, case: case.views)),
    "zero means all": ("count-0", changed(steps=lambda _, case: case.steps or case.views)),
    "-1 for views not taken": ("count-2", changed(not_taken=lambda _, case: -1)),
    "count for views not taken": ("count-2", changed(not_taken=lambda _, case: case.count)),
    "given views ignored": ("reference-clusters", changed(may_take=lambda *_: False)),
    "given views ignored after the first": ("given-some", changed(
        may_take=lambda _, view, taken, case: view >= 0 and not taken)),
    "given views taken twice": ("given-twice", changed(
        may_take=lambda _, view, taken, case: 0 <= view < case.views)),
    "views counted from the end": ("given-outside", changed(
        may_take=lambda _, view, taken, case: -case.views <= view < case.views and (
            view % case.views not in taken) and view != -1)),
}  # fmt: skip


def test_the_plain_traversal_passes() -> None:
    finite = [case for case in FARTHEST.values() if np.abs(case.similarity).max() < 1e30]
    assert len(FARTHEST) - len(finite) == 7
    for case in finite:
        check_farthest(Greedy(), case)


@pytest.mark.parametrize("mutant", FARTHEST_MUTANTS)
def test_farthest_mutants_are_caught(mutant: str) -> None:
    name, implementation = FARTHEST_MUTANTS[mutant]
    with pytest.raises(ContractError, match=r"takes view|the ranks are"):
        check_farthest(implementation, FARTHEST[name])


def test_farthest_rules_catch_a_choice_that_depends_on_count() -> None:
    looks_ahead = changed(
        first_score=lambda self, case: self.average(case).mean(1) * (-1) ** (case.count == 2)
    )
    with pytest.raises(ContractError, match="count 2 begins with other views"):
        check_farthest_rules(looks_ahead)


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
