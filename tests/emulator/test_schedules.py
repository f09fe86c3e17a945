"""Random cases under random schedules: no order of warps, lanes and copies may change a bit.

Run by default: `CASES` random cases but the `LONG` ones, each by every kernel once in order with
the race detector, and once with warps, lanes, quanta and copies at random on few multiprocessors:
equal bits, no finding. Then FP8 sums that keep 14 bits, as the tensor cores are known to. `slow`:
the other random cases, up to `SLOW_CASES`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.emulator.emulator import Emulator
from tests.emulator.judge import SUMMARY, passed, question, takes
from tests.emulator.random_cases import random_case
from tests.gpu import cases
from tests.gpu.checks import Subject
from tests.vectors.case import Layout, attention_case

CASES, SLOW_CASES = 16, 120
LONG = {5}  # chunks of a few keys: ten times as many instructions as the others
FP8_BITS = 14


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(seed, marks=[pytest.mark.slow] if seed >= CASES or seed in LONG else [])
        for seed in range(SLOW_CASES)
    ],
)
def test_random_schedule(emulator: Emulator, subjects: list[Subject], seed: int) -> None:
    case = random_case(seed)
    dtype = (torch.float16, torch.bfloat16)[seed % 2]
    rng = np.random.default_rng([seed, 12])
    full = question(case, dtype)
    asked_of = {"full": full, "fp8": question(case, dtype, fp8=True, expected=full.exact)}
    for subject in subjects:
        if not takes(subject, case):
            continue
        asked = asked_of[subject.precision]
        with emulator.options(races=1):
            ordered = passed(asked, emulator, subject)
        random = {
            "chaos": 1,
            "seed": int(rng.integers(1, 1 << 30)),
            "multiprocessors": int(rng.integers(1, 6)),
            "lazy_wgmma": int(rng.random() < 0.7),
            "lazy_copies": int(rng.random() < 0.7),
            "races": int(rng.random() < 0.3),
        }
        with emulator.options(**random):
            out = asked.run(emulator, subject)
        assert torch.equal(out, ordered), (subject.name, random)
        assert not emulator.take_findings(), (subject.name, random)
        SUMMARY.other["random schedules with equal bits"] += 1


@pytest.mark.parametrize("dim", [64, 128])
def test_fp8_sums_of_few_bits(emulator: Emulator, subjects: list[Subject], dim: int) -> None:
    layout = Layout(133, 3, 2, 1)
    case = attention_case(
        "few-bits", frames=4, layout=layout, q_block=128, k_block=128, pattern="mixed", head_dim=dim
    )
    for mixed in (case, cases.all_low(case)):
        asked = question(mixed, torch.float16, fp8=True)
        for subject in subjects:
            if subject.precision == "fp8" and takes(subject, case):
                with emulator.options(fp8_bits=FP8_BITS):
                    passed(asked, emulator, subject)
