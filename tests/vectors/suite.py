"""The one suite that every implementation of the ops passes, through a small adapter.

`check_attention`, `check_select` and `check_farthest` judge one case; `check_rules` and
`check_farthest_rules` judge rules that need more than one run. `run` goes through all standard
cases and returns the failures, for machines without pytest:
`python -m tests.vectors.suite MODULE:FACTORY`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np

from tests.vectors import farthest_oracle, oracle, plain
from tests.vectors.case import Array, AttentionCase, SelectCase, attention_case
from tests.vectors.farthest_case import FarthestCase, farthest_case, standard_farthest_cases
from tests.vectors.standard import VGGT, standard_cases, standard_select_cases

Case = AttentionCase | SelectCase | FarthestCase

_EPSILON = {"float32": 2.0**-20, "float16": 2.0**-10, "bfloat16": 2.0**-7}


class Adapter(Protocol):
    """Interface of an implementation under test.

    Attributes:
        name: Name in messages.
        dtypes: Supported types, among "float32", "float16", "bfloat16".
        low_precision: Computation of level 1: "exact" or "fp8".
    """

    name: str
    dtypes: tuple[str, ...]
    low_precision: str

    def supports(self, case: Case) -> str | None:
        """Return None, or the reason why this implementation may skip the case."""

    def attention(self, case: AttentionCase) -> Array:
        """Return O of the case's inputs, in the type of Q."""

    def select(self, case: SelectCase) -> Array:
        """Return the int8 level map of the case's inputs."""

    def farthest(self, case: FarthestCase) -> Array:
        """Return the int32 ranks of the case's inputs."""


class ContractError(AssertionError):
    """An implementation violates the contract; the text contains the case and the difference."""


def tolerance(case: AttentionCase, expected: Array, low_precision: str = "exact") -> float:
    """Return the largest |error| allowed by the contract.

    It is twice the error of the plain formula in the same type, and never below a rounding of the
    largest output. In float32 it is four times that error, because the error consists of the order
    of summation alone.
    """
    fp8 = low_precision == "fp8" and bool((case.level == 1).any())
    reference = plain.attention_fp8(case) if fp8 else plain.attention(case)
    error = float(np.abs(reference.astype(np.float64) - expected).max())
    largest = max(float(np.abs(expected).max()), float(np.abs(case.v.astype(np.float64)).max()))
    return max((4.0 if case.dtype == "float32" else 2.0) * error, _EPSILON[case.dtype] * largest)


def check_attention(adapter: Adapter, case: AttentionCase) -> float:
    """Judge one case, and return the error as a share of the tolerance."""
    given = [x.copy() for x in (case.q, case.k, case.v, case.level)]
    out = adapter.attention(case)
    for before, after in zip(given, (case.q, case.k, case.v, case.level), strict=True):
        _demand(np.array_equal(before, after), adapter, case.name, "changed its inputs")
    _demand(out.dtype == case.q.dtype, adapter, case.name, f"gave {out.dtype}")
    _demand(out.shape == case.q.shape, adapter, case.name, f"gave the shape {out.shape}")
    expected = oracle.attention(case)
    wide = out.astype(np.float64)
    _demand(bool(np.isfinite(wide).all()), adapter, case.name, "gave NaN or Inf")
    for b, h in np.ndindex(*case.q.shape[:2]):
        empty = oracle.empty_rows(case, b, h)
        _demand(not wide[b, h, empty].any(), adapter, case.name, "empty rows are not zero")
    allowed = tolerance(case, expected, adapter.low_precision)
    error = float(np.abs(wide - expected).max())
    _demand(error <= allowed, adapter, case.name, f"error {error:.3g}, allowed {allowed:.3g}")
    return error / allowed


def check_select(adapter: Adapter, case: SelectCase) -> int:
    """Judge one case, and return the number of near-tie rows that differ from the oracle."""
    level = adapter.select(case)
    expected = oracle.select(case)
    _demand(level.dtype == np.int8, adapter, case.name, f"gave {level.dtype}")
    _demand(level.shape == expected.level.shape, adapter, case.name, f"gave {level.shape}")
    differs = (level != expected.level).any(-1)
    wrong = np.argwhere(differs & ~expected.near_tie)
    _demand(len(wrong) == 0, adapter, case.name, f"wrong rows (b, h, i) {wrong[:4].tolist()}")
    for b, h, i in np.argwhere(differs):
        row, candidates = level[b, h, i], expected.candidates[i]
        kept, dropped = row > 0, (row == 0) & (candidates > 0)
        legal = np.array_equal(row[kept], candidates[kept])
        legal &= expected.least[b, h, i] <= kept.sum() <= expected.most[b, h, i]
        scores = expected.scores[b, h, i]
        if kept.any() and dropped.any():
            legal &= bool(scores[kept].min() > scores[dropped].max() - expected.score_slack)
        _demand(bool(legal), adapter, case.name, f"row {b, h, i} is no resolution of its near tie")
    return int(differs.sum())


def check_farthest(adapter: Adapter, case: FarthestCase) -> int:
    """Judge one case, and return the number of near ties that it resolves as the oracle does not.

    Each step is judged after the implementation's own earlier choices.
    """
    given = case.similarity.copy(), case.given.copy()
    rank = adapter.farthest(case)
    for before, after in zip(given, (case.similarity, case.given), strict=True):
        same = np.array_equal(before, after, equal_nan=before.dtype.kind == "f")
        _demand(same, adapter, case.name, "changed its inputs")
    _demand(rank.dtype == np.int32, adapter, case.name, f"gave {rank.dtype}")
    _demand(rank.shape == (case.views,), adapter, case.name, f"gave the shape {rank.shape}")
    ranks = [*range(case.steps), *[case.views] * (case.views - case.steps)]
    valid = np.sort(rank).tolist() == ranks
    _demand(valid, adapter, case.name, f"the ranks are {rank.tolist()}")
    order = np.argsort(rank)
    taken: list[int] = []
    differ = 0
    for step in farthest_oracle.traverse(case, taken):
        view = int(order[len(taken)])
        what = f"step {len(taken)} takes view {view}, not {step.best}"
        _demand(bool(step.allowed[view]), adapter, case.name, what)
        differ += view != step.best
        taken.append(view)
    return differ


def check_farthest_rules(adapter: Adapter) -> None:
    """Check that equal runs agree, and that the first views are the same for every count."""
    for kind in ("clusters", "quantised", "constant", "close", "nan"):
        whole = farthest_case(f"rules-{kind}", seed=21, views=19, kind=kind, given=[-1, -1, 3])
        if adapter.supports(whole):
            return
        rank = adapter.farthest(whole)
        same = np.array_equal(rank, adapter.farthest(whole))
        _demand(same, adapter, whole.name, "two runs differ")
        for count in (0, 1, 2, 7, 18, 40):
            part = adapter.farthest(replace(whole, count=count))
            same = np.array_equal(part, np.where(rank < count, rank, whole.views))
            _demand(same, adapter, whole.name, f"count {count} begins with other views")


def check_rules(adapter: Adapter, dtype: str) -> None:
    """Check that NaN stays in its row, equal runs give equal bits, and batches are independent."""
    base = attention_case(
        "rules",
        seed=20,
        batch=2,
        heads=2,
        head_dim=64,
        frames=5,
        layout=VGGT,
        q_block=30,
        k_block=30,
        pattern="sparse",
        map_heads=True,
    ).cast(dtype)
    if adapter.supports(base):
        return
    first = adapter.attention(base)
    same = first.tobytes() == adapter.attention(base).tobytes()
    _demand(same, adapter, "rules", "two runs differ")
    for token in (2, 40, 174):
        q = base.q.copy()
        q[1, 0, token] = np.nan
        out = adapter.attention(replace(base, q=q)).astype(np.float32)
        alone = np.isnan(out[1, 0, token]).all()
        _demand(bool(alone), adapter, "rules", f"NaN in query {token} did not reach its row")
        out[1, 0, token] = first[1, 0, token].astype(np.float32)
        same = np.array_equal(out, first.astype(np.float32))
        _demand(same, adapter, "rules", f"NaN in query {token} left its row")
    for name in ("k", "v"):
        changed = getattr(base, name).copy()
        changed[1, 1] = np.nan
        out = adapter.attention(replace(base, **{name: changed})).astype(np.float32)
        out[1, 1] = first[1, 1].astype(np.float32)
        same = np.array_equal(out, first.astype(np.float32))
        _demand(same, adapter, "rules", f"NaN in {name} of one head reached another")


def run(adapter: Adapter) -> list[str]:
    """Run every standard case in every type of the adapter, and return the failures."""
    failures: list[str] = []
    for report in _reports(adapter):
        print(report, flush=True)
        if report.startswith("FAIL"):
            failures.append(report)
    return failures


def _reports(adapter: Adapter) -> Iterator[str]:
    rules = [partial(check_rules, adapter, dtype) for dtype in adapter.dtypes]
    for check in (*rules, partial(check_farthest_rules, adapter)):
        try:
            check()
        except ContractError as failure:
            yield f"FAIL {failure}"
    for dtype in adapter.dtypes:
        for case in (*standard_cases(), *standard_select_cases()):
            yield _report(adapter, case.cast(dtype))
    for traversal in standard_farthest_cases():
        yield _report(adapter, traversal)


def _report(adapter: Adapter, case: Case) -> str:
    if reason := adapter.supports(case):
        return f"left out {case.name}: {reason}"
    try:
        if isinstance(case, AttentionCase):
            return f"ok   {case.name}: {check_attention(adapter, case):.2f} of the tolerance"
        select = isinstance(case, SelectCase)
        differ = check_select(adapter, case) if select else check_farthest(adapter, case)
    except ContractError as failure:
        return f"FAIL {failure}"
    return f"ok   {case.name}: {differ} near ties differ"


def _demand(holds: bool, adapter: Adapter, case: str, what: str) -> None:
    if not holds:
        raise ContractError(f"{adapter.name}: {case}: {what}")


if __name__ == "__main__":
    module, _, factory = sys.argv[1].partition(":")
    sys.exit(1 if run(getattr(importlib.import_module(module), factory or "ADAPTER")()) else 0)
