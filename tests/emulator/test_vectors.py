"""The vectors of tests/vectors by the emulated kernels, judged as on a GPU by tests/gpu.

Run by default: every case of up to 1,000 tokens and head dimension 64 or 128, in float16 and
bfloat16, by every kernel (16 bits, FP8, each also with the polynomial exponential, portable), with
late products and copies and every checker but the race detector. FP8 kernels take each case twice:
as it is, and with every computed pair of level 1. `slow`: the cases of 1,001 to 8,244 tokens.
"""

from __future__ import annotations

import pytest

from tests.emulator.emulator import Emulator
from tests.emulator.judge import passed, question, takes
from tests.gpu import cases
from tests.gpu.checks import DTYPES, Subject

CASES = {case.name: case for case in cases.cases()}
SMALL = [name for name, case in CASES.items() if case.q.shape[2] <= 1000]
LARGE = [name for name in CASES if name not in SMALL]
TOKEN_SEED = 7


SLOW = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=SLOW) for name in LARGE)])
def test_vector(emulator: Emulator, subjects: list[Subject], name: str) -> None:
    for dtype in DTYPES:
        case = cases.refresh(CASES[name], TOKEN_SEED)
        expected = None
        for fp8, mixed in ((False, case), (True, case), (True, cases.all_low(case))):
            asked = question(mixed, dtype, fp8=fp8, expected=expected)
            expected = asked.exact
            for subject in subjects:
                if (subject.precision == "fp8") == fp8 and takes(subject, case):
                    passed(asked, emulator, subject)
