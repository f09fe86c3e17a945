"""Memory of runs: what a CPU holds beside the stages, and the most views that fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from covis.engines.bundle.bundle import Bundle, open_bundle
from covis.engines.options import BackendOptions, RunOptions, Sparsity
from covis.runtime.run_memory import RunMemory

DEMO = Path(__file__).resolve().parents[2] / "covis/assets/demo"
CPU = RunOptions(chunk=2, backend=BackendOptions("cpu"))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(DEMO)


def test_photos_and_results_are_in_the_memory_of_a_cpu(bundle: Bundle) -> None:
    """RGB, depth, its confidence, 3D points and their confidence, for each of 112 x 112 pixels."""
    memory = RunMemory(bundle, CPU, Sparsity(selector="dense"))
    assert memory.results(10) == 10 * 112 * 112 * (3 + 4 + 4 + 12 + 4)
    gpu = RunMemory(
        bundle, RunOptions(chunk=2, backend=BackendOptions("tensorrt")), memory.sparsity
    )
    assert gpu.total(10) - gpu.weights == memory.total(10) - memory.weights - memory.results(10)


def test_the_most_views_fit_and_one_more_does_not(bundle: Bundle) -> None:
    memory = RunMemory(bundle, CPU, Sparsity(selector="auto"))
    limit = memory.limit(2**28)
    assert limit is not None
    assert memory.total(limit.views) <= 2**28 < memory.total(limit.views + 1)
    assert f"{limit.views + 1} need " in limit.reason and "256.0 MiB" in limit.reason
    assert limit.stage in {step.stage.name for step in memory.steps}
    assert memory.limit(None) is None
