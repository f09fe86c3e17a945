"""The emulator of a session, and what its workers report."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from tests.emulator.emulator import Emulator, the_emulator
from tests.emulator.judge import SUMMARY
from tests.gpu.checks import Subject


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """The emulated kernels with default options; skips where they are not built."""
    started = time.monotonic()
    found = the_emulator()
    found.set_options()
    found.take_findings()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices are small: more threads take ten times the processor time
    yield found
    torch.set_num_threads(threads)
    SUMMARY.seconds += time.monotonic() - started


@pytest.fixture
def subjects(emulator: Emulator) -> list[Subject]:
    """Every kernel and precision: 16 bits and FP8, each with the polynomial one, and portable."""
    return [
        Subject(emulator.library, "hopper"),
        Subject(emulator.library, "hopper-polynomial"),
        Subject(emulator.library, "portable"),
        Subject(emulator.library, "hopper", "fp8"),
        Subject(emulator.library, "hopper-polynomial", "fp8"),
    ]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand a worker's part of the summary to the process that prints it."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["emulated"] = SUMMARY.record()
