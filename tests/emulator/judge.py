"""How an emulated launch is judged: by the rule of tests/gpu/checks.py, on the CPU."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.emulator.emulator import FOLDER, Emulator, StoppedError
from tests.gpu import cases
from tests.gpu.checks import DTYPES, Subject
from tests.vectors import oracle
from tests.vectors.case import Array, AttentionCase


@dataclass(frozen=True)
class Verdict:
    """One launch of one kernel: its largest error against the allowed one, and what was seen."""

    case: str
    kernel: str
    dtype: str
    error: float
    allowed: float
    seconds: float
    complaints: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Within the allowed error (NaN never is), and nothing seen."""
        return self.error <= self.allowed and not self.complaints


@dataclass
class Summary:
    """What all tests of a run have emulated; printed at the end and written as JSON."""

    verdicts: list[Verdict] = field(default_factory=list)
    mutations: dict[str, str] = field(default_factory=dict)  # title -> what saw it, "" = nothing
    other: Counter[str] = field(default_factory=Counter)  # checks of another kind, by name
    seconds: float = 0.0

    def lines(self) -> Iterator[str]:
        """The summary for a person."""
        if self.verdicts:
            passed = sum(v.ok for v in self.verdicts)
            names = len({v.case for v in self.verdicts})
            worst = max(v.error / v.allowed for v in self.verdicts)
            yield (
                f"attention: {passed} of {len(self.verdicts)} launches of {names} cases passed, "
                f"worst error {worst:.3f} of the allowed"
            )
            for kernel in sorted({v.kernel for v in self.verdicts}):
                mine = [v for v in self.verdicts if v.kernel == kernel]
                worst = max(v.error / v.allowed for v in mine)
                yield f"  {kernel}: {len(mine)} launches, worst {worst:.3f}"
        for name, count in sorted(self.other.items()):
            yield f"{name}: {count} passed"
        if self.mutations:
            seen = sum(bool(how) for how in self.mutations.values())
            yield f"mutations: {seen} of {len(self.mutations)} planted seen"
            for title in (title for title, how in self.mutations.items() if not how):
                yield f"  not seen: {title}"

    def record(self) -> dict[str, Any]:
        """Every launch and every mutation, in plain types."""
        return {
            "seconds": round(self.seconds, 1),
            "launches": [{**asdict(v), "complaints": list(v.complaints)} for v in self.verdicts],
            "other": dict(self.other),
            "mutations": self.mutations,
        }

    def add(self, record: dict[str, Any]) -> None:
        """Add what another process of the run has recorded."""
        self.seconds += record["seconds"]
        self.verdicts += [
            Verdict(**{**launch, "complaints": tuple(launch["complaints"])})
            for launch in record["launches"]
        ]
        self.other.update(record["other"])
        self.mutations |= record["mutations"]

    def write(self, path: Path = FOLDER / "summary.json") -> None:
        """`record` as JSON."""
        path.write_text(json.dumps(self.record(), indent=1))


SUMMARY = Summary()


@dataclass(frozen=True)
class Question:
    """A case in one type, with its exact result and the error that a kernel may have."""

    case: AttentionCase
    dtype: torch.dtype
    exact: Array
    allowed: float

    def run(self, emulator: Emulator, subject: Subject) -> torch.Tensor:
        """The kernel's output, (B, H, S, D)."""
        q, k, v = (
            torch.from_numpy(x).to(self.dtype) for x in (self.case.q, self.case.k, self.case.v)
        )
        return emulator.attention(
            q,
            k,
            v,
            torch.from_numpy(self.case.level),
            layout=cases.layout_of(self.case),
            q_block=self.case.q_block,
            k_block=self.case.k_block,
            scale=self.case.scale,
            precision=subject.precision,
            kernel=subject.kernel,
        )

    def judge(self, emulator: Emulator, subject: Subject) -> tuple[Verdict, torch.Tensor | None]:
        """Run and judge; a stopped launch has an infinite error and no output."""
        started = time.monotonic()
        complaints, error, out = [], np.inf, None
        emulator.take_findings()
        try:
            out = self.run(emulator, subject)
            numbers = out.float().numpy()
            error = float(np.abs(numbers - self.exact).max(initial=0.0))
            if any(numbers[at][empty].any() for at, empty in self._empty_rows()):
                complaints.append("empty rows are not zero")
        except StoppedError as stopped:
            complaints.append(str(stopped))
        complaints += emulator.take_findings()
        name = str(self.dtype).removeprefix("torch.")
        seconds = time.monotonic() - started
        verdict = Verdict(
            self.case.name, subject.name, name, error, self.allowed, seconds, tuple(complaints)
        )
        return verdict, out

    def _empty_rows(self) -> Iterator[tuple[tuple[int, ...], Array]]:
        for b, h in np.ndindex(*self.case.q.shape[:2]):
            yield (b, h), oracle.empty_rows(self.case, b, h)


def question(
    case: AttentionCase, dtype: torch.dtype, *, fp8: bool = False, expected: Array | None = None
) -> Question:
    """The case rounded to `dtype`: twice the plain formula's error is allowed, or an ulp of V.

    `expected` is the exact result where it is known, (B, H, S, D).
    """
    case = cases.rounded(case, dtype)
    expected = cases.exact(case, "cpu") if expected is None else expected
    plain = cases.plain_fp8 if fp8 else cases.plain
    error = float(np.abs(plain(case, dtype, "cpu") - expected).max(initial=0.0))
    allowed = max(2.0 * error, DTYPES[dtype] * float(np.abs(case.v).max()))
    return Question(case, dtype, expected, allowed)


def takes(subject: Subject, case: AttentionCase) -> bool:
    """Whether the library has this kernel for the case's head dimension."""
    return subject.kernel != "hopper-polynomial" or case.q.shape[3] == 64


def passed(asked: Question, emulator: Emulator, subject: Subject) -> torch.Tensor:
    """Judge, add the verdict to the summary, and fail the calling test where it is not a pass.

    Returns the kernel's output.
    """
    verdict, out = asked.judge(emulator, subject)
    SUMMARY.verdicts.append(verdict)
    assert verdict.ok and out is not None, "\n".join(map(str, (verdict, *verdict.complaints)))
    return out
