"""The judge itself: what it must not confuse, and what it must not let pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tests.emulator.judge import Summary, Verdict
from tests.gpu import cases
from tests.vectors import oracle
from tests.vectors.case import attention_case


def test_two_cases_of_one_name_have_their_own_levels() -> None:
    case = attention_case("twin", frames=12, q_block=4, k_block=4, pattern="mixed", map_heads=True)
    twin = replace(case, level=np.ascontiguousarray(case.level[:, :, ::-1]))
    for given in (case, twin, case, replace(twin, q_block=6, k_block=6), cases.all_low(case)):
        for head in range(2):
            expected = oracle.token_levels(given, 0, head)
            got = cases.token_levels(given, 0, head, "cpu")
            np.testing.assert_array_equal(got.numpy(), expected)


def test_levels_are_kept_while_tokens_change() -> None:
    case = attention_case("kept", frames=12, q_block=4, k_block=4)
    first = cases.token_levels(case, 0, 0, "cpu")
    rounded = cases.rounded(cases.refresh(case, 1), torch.float16)
    assert cases.token_levels(rounded, 0, 1, "cpu") is first


def test_nan_and_findings_are_no_pass() -> None:
    good = Verdict("case", "kernel", "float16", 0.1, 0.2, 1.0)
    assert good.ok
    assert not replace(good, error=float("nan")).ok
    assert not replace(good, error=0.3).ok
    assert not replace(good, complaints=("a race",)).ok


def test_summary_names_what_was_not_seen() -> None:
    bad = Verdict("other", "kernel", "float16", 0.4, 0.2, 1.0)
    good = replace(bad, error=0.1)
    text = "\n".join(Summary([good, bad], {"a fence left out": ""}).lines())
    assert "1 of 2 launches of 1 cases passed, worst error 2.000" in text
    assert "0 of 1 planted seen" in text
    assert "not seen: a fence left out" in text
