"""Lifetime of the values of a run, its chunks, and the peak memory computed from them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Stage
from covis.engines.dtypes import numpy_dtype
from covis.engines.options import Sparsity
from covis.runtime import flow
from covis.runtime.memory.device_array import Value
from covis.runtime.memory.memory import HostMemory
from covis.runtime.pipeline import load

LENGTHS = {"K": 1, "R": 2}


class CountingMemory(HostMemory):
    """Host memory that counts the live bytes of the values between stages."""

    def __init__(self) -> None:
        self.alive = self.highest = 0

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Value:
        array = super().empty(shape, dtype)
        self.alive += array.nbytes
        self.highest = max(self.highest, self.alive)
        weakref.finalize(array, self._gone, array.nbytes)
        return array

    def put(self, array: NDArray[Any]) -> Value:
        value = self.empty(array.shape, array.dtype)
        assert isinstance(value, np.ndarray)
        value[...] = array
        return value

    def _gone(self, size: int) -> None:
        self.alive -= size


@pytest.mark.parametrize(
    ("sparsity", "maps"),
    [(Sparsity("dense"), 1), (Sparsity("saliency", layers="0"), 2), (Sparsity("pooled"), 1),
     (Sparsity("anchors", anchors=2), 2)],
    ids=lambda value: getattr(value, "selector", str(value)),
)  # fmt: skip
def test_a_run_allocates_what_was_computed(
    tiny_bundle: Path, photos: Path, sparsity: Sparsity, maps: int
) -> None:
    pipeline = load(tiny_bundle)
    memory = pipeline.backend.memory = CountingMemory()  # type: ignore[misc]
    pipeline(photos, sparsity=sparsity)
    run = flow.steps(pipeline.bundle.manifest, sparsity)
    computed = max(live for _, live in flow.live_bytes(run, {"M": 4, "N": 4, "K": 1, "R": maps}))
    assert memory.highest == computed > 0
    assert memory.alive <= 4 * 4 * 5 * maps  # nothing but the pairs outlives the run


def test_results_are_not_kept_on_the_device(tiny_bundle: Path) -> None:
    manifest = load(tiny_bundle).bundle.manifest
    run = {step.stage.name: step for step in flow.steps(manifest, Sparsity("dense"))}
    assert run["encoder"].read_later == {"patch_tokens"}
    assert run["depth"].read_later == run["points"].read_later == frozenset()
    assert "patch_tokens" in run["aggregator"].done and "patch_tokens" not in run["saliency"].done
    taps = {f"tap{i}_{half}" for i in range(4) for half in ("frame", "global")}
    assert taps <= run["points"].done
    assert not any(step.done & flow.REPORTED for step in run.values())


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 6))
def test_chunks_cover_every_frame(total: int, step: int, least: int) -> None:
    cuts = list(flow.chunks(total, step, min(least, step)))
    seen = [frame for first, last in cuts for frame in range(first, last)]
    assert sorted(set(seen)) == list(range(total))
    assert all(last - first <= step for first, last in cuts)
    assert all(last - first >= min(least, step, total) for first, last in cuts)
    if least == 1:
        assert len(seen) == total


def test_peak_counts_buffers_and_the_largest_scratch(tiny_bundle: Path) -> None:
    manifest = load(tiny_bundle).bundle.manifest
    run = flow.steps(manifest, Sparsity("dense"))

    def scratch(stage: Stage, sizes: dict[str, int]) -> int:
        return {"encoder": 7, "aggregator": 1000 * sizes["M"], "points": 5}.get(stage.name, 0)

    without = flow.peak_bytes(run, 10, 4, LENGTHS, lambda stage, sizes: 0)
    assert flow.peak_bytes(run, 10, 4, LENGTHS, scratch) == without + 10_000
    # Chunks of 4, 4 and 2 frames: buffers for 4 and for 2, in encoder, depth and points.
    per_frame = sum(
        flow.nbytes(tensor, {"M": 1, "N": 1, **LENGTHS})
        for stage in manifest.stages
        if stage.scope == "frames"
        for tensor in (*stage.inputs, *stage.outputs)
    )
    taps = flow.peak_bytes(run, 10, 1, LENGTHS, lambda stage, sizes: 0)
    assert without - taps == (4 + 2 - 1) * per_frame


def test_bfloat16_has_a_dtype() -> None:
    assert numpy_dtype("bfloat16").itemsize == 2
    assert numpy_dtype("float32") == np.float32
